"""For authors of storage drivers: the contract, what happens to a job, how drivers are found, and a guard."""

from composerd.driver.contract import (
    CONTRACT_VERSION,
    Batch,
    Capabilities,
    Driver,
    StorageCheck,
    StorageInfo,
    StoredAttempt,
    StoredJob,
)
from composerd.driver.rules import on_return, retry_backoff

__all__ = [
    "CONTRACT_VERSION",
    "Batch",
    "Capabilities",
    "Driver",
    "StorageCheck",
    "StorageInfo",
    "StoredAttempt",
    "StoredJob",
    "on_return",
    "retry_backoff",
]
