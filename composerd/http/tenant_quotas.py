"""The quotas of the tenant that sends a request. Whatever is stored counts for its channel, whoever sends it."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from uuid import UUID

from composerd.errors import QuotaForbids, QuotaUsedUp
from composerd.http.request_context import identity
from composerd.identity.roles import Role
from composerd.queue import JobQueue, Lookup
from composerd.quotas import Held, Quota, Quotas

_UNCOUNTED = nullcontext()


def _of_sender(queue: JobQueue) -> Quotas | None:
    """Return the quotas that apply to what the sender does; None if there are none, or if it is an admin."""
    return None if queue.quotas is None or identity.get().role is Role.ADMIN else queue.quotas


async def check_submission(queue: JobQueue) -> None:
    """Count a submission, and raise `QuotaUsedUp` or `QuotaForbids` if it is refused whatever is in its body."""
    if (quotas := _of_sender(queue)) is not None:
        channel = identity.get().channel
        await quotas.check_submission(channel)
        quotas.count_submission(channel)


def open_wait(queue: JobQueue) -> AbstractContextManager[None]:
    """Count a wait for the length of a block. Entering it raises `QuotaUsedUp` or `QuotaForbids` if too many wait."""
    quotas = _of_sender(queue)
    return _UNCOUNTED if quotas is None else quotas.open_wait(identity.get().channel)


def check_wait(queue: JobQueue) -> None:
    """Raise `QuotaUsedUp` or `QuotaForbids` if no further request of the sender may wait. Nothing is counted."""
    with open_wait(queue):
        pass


def may_wait(queue: JobQueue) -> bool:
    """Return True if another request of the sender may wait."""
    try:
        check_wait(queue)
    except (QuotaUsedUp, QuotaForbids):
        return False
    return True


class UploadRoom:
    """The room that one upload takes of the quota of its channel."""

    def __init__(self, held: Held | None) -> None:
        self._held = held
        self._attaching = False

    async def grow(self, size: int) -> None:
        """Take more room. Raises `QuotaUsedUp` and `QuotaForbids`."""
        if self._held is not None and size:
            await self._held.grow({Quota.ARTIFACT_BYTES: size})

    def attaching(self) -> None:
        """Note that from now on the file may be stored, whatever happens to the request."""
        self._attaching = True

    def end(self) -> None:
        """Give the room back, unless the file may be stored."""
        if self._held is not None:
            if self._attaching:
                self._held.settle()
            else:
                self._held.free()


@asynccontextmanager
async def upload_room(queue: JobQueue, job_id: UUID) -> AsyncIterator[UploadRoom]:
    """Count an upload for the length of a block, for the channel of its job."""
    held = None
    if queue.quotas is not None:
        channel = identity.get().channel
        if identity.get().role is Role.ADMIN:
            channel = (await queue.listed(Lookup(job_id, None))).channel
        held = queue.quotas.held(channel)
    room = UploadRoom(held)
    try:
        yield room
    finally:
        room.end()
