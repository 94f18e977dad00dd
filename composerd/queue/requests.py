"""The requests for jobs: how they wait, which of them end early, and what a repeated one gets."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import msgspec

from composerd.errors import RequestIdUsed
from composerd.ids import new_id
from composerd.models import AttemptState, Claim, Claimed, Key, Worker
from composerd.queue.dispatcher import Dispatcher, TokenUsed
from composerd.queue.line import Waiter
from composerd.queue.options import QueueOptions
from composerd.queue.roster import Roster
from composerd.queue.undelivered import Undelivered
from composerd.queue.waits import Waits
from composerd.queue.worker_ids import stored_worker_id

KEYS_OF_A_WAIT = 8
"""Number of keys up to which a request for a job counts as one wait: each type has two, with the arch and without."""

TOKENS_OF_A_REQUEST = 16
"""Number of tokens that stand for one request id: each attempt that is released uses up one."""

NO_WORKER = UUID(int=0)
"""Stands for the worker of requests without a worker id."""

_LABEL = b"composerd: token of a request for a job\0"

_OWNED = b"composerd: token of an attempt with an owner\0"

_Client = tuple[UUID, str]
"""A worker, and its client."""

_Waiters = dict[frozenset[Key], OrderedDict[int, Waiter]]
"""The waiters of a worker for each set of keys, oldest first."""

_Named = tuple[UUID, UUID, str]
"""A worker, the id of a request, and the owner of the request."""


class JobRequest(msgspec.Struct, frozen=True):
    """A request for a job of some keys."""

    keys: tuple[Key, ...]
    """The keys that the worker accepts, without repetitions."""
    worker: Worker | None = None
    """The worker, if the request names it."""
    confirm: bool = False
    """True if the worker promises to confirm the handover."""
    client: str = ""
    """The client that sent the request."""
    id: UUID | None = None
    """The id of the request, which the worker has chosen, if it has one."""
    slots: int | None = None
    """Number of requests with which the worker waits for jobs of these keys at the most, if it says so."""
    owner: str = ""
    """The key of the identity that the attempt will belong to; empty if whoever has the token may use it."""

    @property
    def named(self) -> _Named | None:
        """The name under which the worker may repeat the request."""
        if self.id is None:
            return None
        return NO_WORKER if self.worker is None else self.worker.id, self.id, self.owner


class HandedOut(Claimed, frozen=True):
    """A job that was claimed for a request."""

    given: UUID = NO_WORKER
    """The token that the worker gets. `token` is the one that the storage knows."""


class _Asking(msgspec.Struct, eq=False):
    """A request with an id, as long as it waits."""

    over: asyncio.Event
    """Set when it no longer waits."""
    waiter: Waiter | None = None
    repeated: bool = False
    """True once there is a later request with its id, which waits until this one has ended."""


class JobRequests:
    """Lets requests for jobs wait.

    A request with an id may be repeated by its worker, here or at another server of the storage, before a restart or
    after it. The token of its attempt is derived from the id, and a driver answers a claim with the same token with the
    same job. So a request id never gets a second job while the attempt of the first may run. An attempt that was given
    back, or that is over because nobody has called, uses up its token; the next token is derived then.

    The token that the storage knows is made of the one that the worker gets and of the owner. So another identity that
    has got hold of the worker's token names an attempt that does not exist.
    """

    def __init__(
        self, options: QueueOptions, dispatcher: Dispatcher, waits: Waits, roster: Roster, undelivered: Undelivered
    ) -> None:
        self._options = options
        self._dispatcher = dispatcher
        self._waits = waits
        self._roster = roster
        self._undelivered = undelivered
        self._by_worker: dict[_Client, _Waiters] = {}
        """The waiters of workers that have declared their slots."""
        self._by_id: dict[_Named, _Asking] = {}
        """The latest request with each id, as long as it waits."""

    async def wait(self, request: JobRequest, wait: float | None) -> HandedOut | None:
        """Wait for a job of the request's keys at most `wait` seconds, and begin an attempt at it.

        Returns None if the time is up, the queue drains, or another request needs the place. Raises `RequestIdUsed`,
        and `Unavailable` if too many requests wait, if the client is reading too many jobs, or if the storage does not
        answer.
        """
        named = request.named
        if named is None:
            return await self._wait(request, new_id(), wait)
        asking = _Asking(asyncio.Event())
        earlier = self._by_id.get(named)
        self._by_id[named] = asking
        try:
            if earlier is not None:
                earlier.repeated = True
                if earlier.waiter is not None:
                    self._dispatcher.expire(earlier.waiter)
                await earlier.over.wait()
            return await self._wait_with(named, asking, request, wait)
        finally:
            asking.over.set()
            if self._by_id.get(named) is asking:
                if earlier is not None and not earlier.over.is_set():  # this one has left while it waited for that one
                    self._by_id[named] = earlier
                else:
                    del self._by_id[named]

    async def _wait_with(
        self, named: _Named, asking: _Asking, request: JobRequest, wait: float | None
    ) -> HandedOut | None:
        """Wait with the tokens that stand for a request id, one after the other."""
        loop = asyncio.get_running_loop()
        deadline = None if wait is None else loop.time() + wait
        for number in range(TOKENS_OF_A_REQUEST):
            token = token_of(named, number)
            await self._undelivered.released(stored_token(token, request.owner))
            if asking.repeated:
                return None
            left = None if deadline is None else max(0.0, deadline - loop.time())
            try:
                claimed = await self._wait(request, token, left, asking)
            except TokenUsed as exc:
                if exc.state is AttemptState.FINISHED:
                    break
                continue
            if claimed is None or not claimed.confirmed:
                return claimed
            self._dispatcher.delivered(claimed, request.client)
            break
        raise RequestIdUsed(field="request_id", problem="choose a new id for each job that you ask for")

    async def _wait(
        self, request: JobRequest, given: UUID, wait: float | None, asking: _Asking | None = None
    ) -> HandedOut | None:
        worker = request.worker
        handover = self._options.handover_timeout if request.confirm else None
        worker_id = None if worker is None else stored_worker_id(worker.id, worker.channel)
        token = stored_token(given, request.owner)
        claim = Claim(token, request.keys, self._options.heartbeat_timeout, handover, worker_id)
        waiter = self._dispatcher.waiter(claim, request.client, named=asking is not None)
        if asking is not None:
            asking.waiter = waiter
        end = partial(self._dispatcher.expire, waiter)
        waiting = self._waits.begin(request.client, end, -(-len(request.keys) // KEYS_OF_A_WAIT))
        if worker is not None:
            self._roster.begin_wait(worker)
        try:
            if request.slots is None:
                claimed = await self._dispatcher.wait_for_job(waiter, wait)
            else:
                with self._in_slot(request, waiter):
                    claimed = await self._dispatcher.wait_for_job(waiter, wait)
            return None if claimed is None else _handed_out(claimed, given)
        finally:
            self._waits.end(waiting)
            if worker is not None:
                self._roster.end_wait(worker)

    @contextmanager
    def _in_slot(self, request: JobRequest, waiter: Waiter) -> Iterator[None]:
        """Count a waiter among those of its worker, and end the oldest ones beyond its slots.

        Only requests of the same client end each other, because the ids of workers are no secret: otherwise anybody
        could end the waits of others.
        """
        if request.worker is None or request.worker.id == NO_WORKER or request.slots is None:
            yield
            return
        named, keys = (request.worker.id, request.client), frozenset(request.keys)
        waiters = self._by_worker.setdefault(named, {})
        own = waiters.setdefault(keys, OrderedDict())
        while len(own) >= request.slots:
            _, oldest = own.popitem(last=False)
            self._dispatcher.expire(oldest)
        own[id(waiter)] = waiter
        try:
            yield
        finally:
            own.pop(id(waiter), None)
            if not own and waiters.get(keys) is own:
                del waiters[keys]
                if not waiters and self._by_worker.get(named) is waiters:
                    del self._by_worker[named]

    def end(self, worker_id: UUID, client: str) -> None:
        """End the requests with which a worker waits in its slots: it has ended itself, and would not read a job."""
        for own in self._by_worker.get((worker_id, client), {}).values():
            while own:
                self._dispatcher.expire(own.popitem(last=False)[1])


def _handed_out(claimed: Claimed, given: UUID) -> HandedOut:
    return HandedOut(
        claimed.token,
        claimed.job_id,
        claimed.key,
        claimed.args,
        claimed.dependencies,
        claimed.attempt,
        claimed.confirmed,
        given,
    )


def stored_token(given: UUID, owner: str) -> UUID:
    """Return the token under which the storage knows an attempt, from the one that its worker has got.

    It depends on the identity that owns the attempt, of which `owner` is the key; empty if everybody may use the token.
    """
    if not owner:
        return given
    return UUID(bytes=hashlib.sha256(_OWNED + given.bytes + owner.encode()).digest()[:16], version=4)


def token_of(named: _Named, number: int) -> UUID:
    """Return the token of the attempt that a request with an id gets after `number` attempts that were released."""
    worker, request_id, _ = named
    digest = hashlib.sha256(_LABEL + worker.bytes + request_id.bytes + number.to_bytes(1, "big")).digest()
    return UUID(bytes=digest[:16], version=4)


def keys_for(channel: str, types: Sequence[str], arch: str) -> tuple[Key, ...]:
    """Return the keys that a worker of an architecture may claim: for each type, jobs of its arch and of any arch."""
    keys: list[Key] = []
    for type in dict.fromkeys(types):
        keys += (Key(channel, type, arch), Key(channel, type, None))
    return tuple(keys)
