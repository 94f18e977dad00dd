"""Conformance kits for storage drivers and artifact stores: classes to derive a test class from.

They need `composerd[testing]` (pytest and hypothesis).
"""

from composerd.testing.kit.artifact_stores import ArtifactStoreKit
from composerd.testing.kit.driverkit import DriverKit

__all__ = ["DriverKit", "ArtifactStoreKit"]
