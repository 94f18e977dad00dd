"""The ids under which a storage knows the workers of each channel: different ones for the same id in two channels."""

import hashlib
from functools import lru_cache
from uuid import UUID

from msgspec.structs import replace

from composerd.models import Job

NIL = UUID(int=0)
"""The id that stands for no worker."""

_LABEL = b"composerd: ids of workers of a channel\0"

_FIXED = 0xF000_C000 << 48
"""The bits of a UUID that say what kind of UUID it is."""


def stored_worker_id(given: UUID, channel: str) -> UUID:
    """Return the id under which the storage knows a worker of a channel, which calls itself `given`.

    The storage knows a worker by its id alone. If two tenants use the same id, each has a worker of its own, as if the
    other did not exist. The ids of the channel `""` stay as they are.
    """
    if not channel or given == NIL:
        return given
    return UUID(int=given.int ^ _mask(channel))


def given_worker_id(stored: UUID, channel: str) -> UUID:
    """Return the id that a worker of a channel uses, which the storage knows by `stored`."""
    return stored_worker_id(stored, channel)  # one and the same mask is put on and taken off


def with_given_worker_id(job: Job) -> Job:
    """Return a job with the id that its worker uses."""
    if job.worker_id is None or not job.channel:
        return job
    return replace(job, worker_id=given_worker_id(job.worker_id, job.channel))


@lru_cache(maxsize=1024)
def _mask(channel: str) -> int:
    return int.from_bytes(hashlib.sha256(_LABEL + channel.encode()).digest()[:16]) & ~_FIXED
