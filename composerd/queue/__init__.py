"""The queue: everything between the HTTP APIs and a storage driver.

It waits for jobs, gathers writes, and lets time pass. It knows no HTTP and no particular storage. Other packages
import from here, never from a module of this package.
"""

from composerd.queue.budgets import SMALL, Account
from composerd.queue.jobqueue import JobQueue
from composerd.queue.lookups import Lookup
from composerd.queue.options import QueueOptions
from composerd.queue.payloads import PART, Piece, Stored, size_of
from composerd.queue.refusals import check_running
from composerd.queue.requests import HandedOut, keys_for, stored_token
from composerd.queue.why import Why, explain

__all__ = [
    "JobQueue",
    "QueueOptions",
    "PART",
    "SMALL",
    "Account",
    "HandedOut",
    "Lookup",
    "Piece",
    "Stored",
    "Why",
    "check_running",
    "explain",
    "keys_for",
    "size_of",
    "stored_token",
]
