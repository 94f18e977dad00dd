"""The conformance kit for storage drivers: a class to derive from, in ten lines. Needs `composerd[testing]`: pytest and hypothesis."""

from composerd.testing.kit.driverkit import DriverKit

__all__ = ["DriverKit"]
