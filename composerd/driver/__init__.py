"""For authors of storage drivers: the contract, what happens to a job, how drivers are found, and a guard."""

from composerd.driver.contract import CONTRACT_VERSION, Driver
from composerd.driver.values import (
    Batch,
    Capabilities,
    Damage,
    StorageCheck,
    StorageInfo,
    StoredAttempt,
    StoredJob,
    Usage,
)
from composerd.free_space import DiskSpace

__all__ = [
    "CONTRACT_VERSION",
    "Batch",
    "Capabilities",
    "Damage",
    "DiskSpace",
    "Driver",
    "StorageCheck",
    "StorageInfo",
    "StoredAttempt",
    "StoredJob",
    "Usage",
]
