"""The meaning between the APIs and the drivers: batches, waiting, time passing, news. Knows no HTTP and no particular storage."""

from composerd.queue.jobqueue import JobQueue, QueueOptions

__all__ = ["JobQueue", "QueueOptions"]
