"""The contract for authors of storage drivers: what a driver promises, how it is found, the guard around it. No driver lives here."""

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
