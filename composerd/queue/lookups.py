"""Looking up a job for somebody: a job of a channel that they do not see is answered as one that does not exist."""

from typing import NamedTuple
from uuid import UUID

from composerd.errors import JobNotFound
from composerd.models import Job


class Lookup(NamedTuple):
    """A job that somebody asks about."""

    id: UUID
    channel: str | None
    """The only channel whose jobs exist for them; None if all do."""

    def checked(self, job: Job | None) -> Job:
        """Return the job that was found. Raises `JobNotFound` if it does not exist, or not for whoever asks."""
        if job is None or (self.channel is not None and job.channel != self.channel):
            raise JobNotFound(id=str(self.id))
        return job
