"""The queue: everything between the HTTP APIs and a storage driver.

It waits for jobs, gathers writes, and lets time pass. It knows no HTTP and no particular storage. Other packages
import from here, never from a module of this package.
"""

from composerd.queue.budget import Budget
from composerd.queue.dispatcher import keys_for
from composerd.queue.jobqueue import JobQueue
from composerd.queue.options import QueueOptions
from composerd.queue.refusals import check_running
from composerd.queue.why import Why, explain

__all__ = ["JobQueue", "QueueOptions", "Budget", "Why", "check_running", "explain", "keys_for"]
