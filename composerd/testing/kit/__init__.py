"""The conformance kits for storage drivers and artifact stores: classes to derive from. Needs `composerd[testing]` (pytest, hypothesis)."""

from composerd.testing.kit.artifact_stores import ArtifactStoreKit
from composerd.testing.kit.driverkit import DriverKit

__all__ = ["DriverKit", "ArtifactStoreKit"]
