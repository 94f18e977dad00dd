"""Turns: clients that send heavy requests take turns with the others."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextvars import ContextVar
from uuid import UUID

from aiohttp import web

from composerd.http.request_context import client
from composerd.queue import Lookup
from composerd.shares import Shares

HEAVY_AT_ONCE = 1
"""The most heavy requests that are worked on at one time. Two would not leave each other time, nor anybody else."""

PAUSE = 0.002
"""Time in seconds between two heavy requests, if one waits, in which others have the event loop for themselves."""

FEW_EDGES = 100
"""The most dependencies and dependents of a job, together, with which a request about it is not heavy."""

LARGE_JOBS = 1000
"""The most jobs that are remembered because requests about them are heavy."""

HEAVY_WAITING = 256
"""The most heavy requests that wait for their turn. A client may have half of what the others leave free."""


class Line:
    """Those who wait for something: one of each client in turns, and of a client the one that came first."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def __bool__(self) -> bool:
        """Return True if anybody waits, or has just left."""
        return bool(self._clients)

    def join(self, client: str) -> "asyncio.Future[None]":
        """Return a future that is done when it is the client's turn. Cancel it to leave."""
        turn = asyncio.get_running_loop().create_future()
        own = self._clients.get(client)
        if own is None:
            own = self._clients[client] = deque()
        own.append(turn)
        return turn

    def call_next(self) -> bool:
        """Give the next one its turn. Return False if nobody waits."""
        while self._clients:
            client, own = self._clients.popitem(last=False)
            turn = own.popleft()
            if own:
                self._clients[client] = own
            if not turn.done():
                turn.set_result(None)
                return True
        return False


class Turn:
    """The turn of a heavy request."""

    def __init__(self, turns: "Turns") -> None:
        self._turns: Turns | None = turns

    def give_back(self) -> None:
        """End the turn. Doing that again changes nothing."""
        if self._turns is not None:
            self._turns.give_back()
            self._turns = None


class LargeJobs:
    """The jobs that lately turned out to have many dependencies or dependents: it takes long only to look."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[Lookup, None] = OrderedDict()

    def __contains__(self, job: Lookup) -> bool:
        """Return True if a request about the job is heavy, as far as known."""
        return job in self._jobs

    def add(self, job: Lookup) -> None:
        """Remember a job, and forget the oldest one if there are many. It has to exist for whoever asks."""
        self._jobs[job] = None
        if len(self._jobs) > LARGE_JOBS:
            self._jobs.popitem(last=False)


class Turns:
    """Lets heavy requests be worked on one at a time; the clients take turns."""

    def __init__(self) -> None:
        self.large_jobs = LargeJobs()
        self._line = Line()
        self._busy = 0
        self._waiting = Shares("heavy requests", HEAVY_WAITING)

    async def take(self, client: str) -> Turn:
        """Wait for a turn, and return it. Raises `Unavailable` if too many requests of the client wait."""
        if self._busy < HEAVY_AT_ONCE:
            self._busy += 1
            return Turn(self)
        self._waiting.take(client)
        turn = self._line.join(client)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # it got the turn at the same time
            raise
        finally:
            self._waiting.free(client)
        return Turn(self)

    def give_back(self) -> None:
        """End a turn; the next request in line gets it after a pause."""
        if self._line:
            asyncio.get_running_loop().call_later(PAUSE, self._call_next)
        else:
            self._busy -= 1

    def _call_next(self) -> None:
        if not self._line.call_next():
            self._busy -= 1


TURNS: web.AppKey[Turns] = web.AppKey("TURNS", Turns)

held_turn: ContextVar[Turn | None] = ContextVar("held_turn", default=None)
"""The turn of the request, if it is heavy; it ends before the answer is written, or `RequestBoundary` ends it."""


def end_turn() -> None:
    """End the turn of the request, if it has one."""
    if (turn := held_turn.get()) is not None:
        held_turn.set(None)
        turn.give_back()


async def heavy(request: web.Request) -> None:
    """Wait for a turn for a heavy request, after its body was read. If it has one, nothing happens.

    It has the turn until its answer is written, which may take long, or until it has failed. Raises `Unavailable` if
    too many heavy requests of its client wait.
    """
    if held_turn.get() is None:
        held_turn.set(await request.app[TURNS].take(client.get()))


async def next_turn(request: web.Request) -> None:
    """Let other heavy requests go on, and wait for the next turn. Raises what `heavy` raises."""
    end_turn()
    await heavy(request)


def is_heavy(*edges: Sequence[UUID]) -> bool:
    """Return True if a request about a job with these dependencies and dependents needs a turn."""
    return sum(map(len, edges)) > FEW_EDGES
