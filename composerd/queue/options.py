"""The options of a queue."""

import msgspec


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a queue; durations in seconds."""

    heartbeat_timeout: float
    """The lease of a running attempt."""
    handover_timeout: float
    """The time for a worker that promised to confirm a handover to do so."""
    sweep_interval: float
    """Interval in seconds at which jobs past their retention are deleted and changes whose news was lost are found."""
    worker_timeout: float
    """A worker that was not seen for this long is unknown."""
    min_free_space: int | None = 0
    """Bytes that have to stay free on the file system of the storage; None for a part of it."""
    max_waits: int
    """The most requests that may wait at one time, for a job or for a change of one."""
    largest_body: int = 32 * 1024 * 1024
    """The largest body of a request, in bytes."""
