"""The ids under which a storage knows the workers of each channel: different ones for the same id in two channels."""

import hashlib
import hmac
from functools import lru_cache
from uuid import UUID

from msgspec.structs import replace

from composerd.models import Job

NIL = UUID(int=0)
"""The id that stands for no worker."""

_LABEL = b"composerd: ids of workers of a channel\0"

_FIXED = 0xF000_C000 << 48
"""The bits of a UUID that say what kind of UUID it is."""


class WorkerIds:
    """Translates the ids that workers use to those that the storage knows them by, and back.

    The storage knows a worker by its id alone. If two tenants use the same id, each has a worker of its own, as if the
    other did not exist. So the storage gets a different id for each channel, which only those can compute who know the
    storage's secret. The ids of the channel `""` stay as they are.
    """

    def __init__(self) -> None:
        self.secret = b""
        """The secret of the storage, which the queue sets once the storage is open."""

    def stored(self, given: UUID, channel: str) -> UUID:
        """Return the id under which the storage knows a worker of a channel, which calls itself `given`."""
        if not channel or given == NIL:
            return given
        return UUID(int=given.int ^ _mask(self.secret, channel))

    def given(self, stored: UUID, channel: str) -> UUID:
        """Return the id that a worker of a channel uses, whom the storage knows by `stored`."""
        return self.stored(stored, channel)  # one and the same mask is put on and taken off

    def shown(self, job: Job) -> Job:
        """Return a job with the id that its worker uses."""
        if job.worker_id is None or not job.channel:
            return job
        return replace(job, worker_id=self.given(job.worker_id, job.channel))


@lru_cache(maxsize=1024)
def _mask(secret: bytes, channel: str) -> int:
    digest = hmac.digest(secret, _LABEL + channel.encode(), hashlib.sha256)
    return int.from_bytes(digest[:16]) & ~_FIXED
