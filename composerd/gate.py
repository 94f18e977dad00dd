"""The gate: of a client that has much to do at once, a little begins at a time."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

STARTS = 4
"""The most requests of one client that begin or go on at once, if there are other clients."""

PACE = 0.0005
"""The least time in seconds until as many more begin.

They are answered together when the storage was busy, for example with a flush: the loop must not have taken as many
turns meanwhile as it can, and begun some in each.
"""

CONTENDED = 60.0
"""Time in seconds for which a client counts as there after a request."""


class Gate:
    """Lets requests begin, and those that have waited go on: of each client a few at a time.

    However many connections a client keeps busy, what the others do waits for a few of its requests only. It limits how
    many begin at once, not how many are in progress, and does nothing while there is one client only.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun: dict[str, int] = {}
        """The number of requests of each client that have begun in this turn."""
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._latest = ""
        """The client of the latest request."""
        self._contended_until = 0.0

    @property
    def contended(self) -> bool:
        """True if there was more than one client lately."""
        return time.monotonic() <= self._contended_until

    def enter(self, client: str) -> "asyncio.Future[None] | None":
        """Return None if a request may begin now, as usual, and otherwise a future that is done when it may."""
        if client != self._latest:
            if self._latest:
                self._contended_until = time.monotonic() + CONTENDED
            self._latest = client
        return self.turn(client)

    def call(self, client: str, go_on: Callable[[], object]) -> None:
        """Call something that lets a request of the client go on: usually at once, otherwise when it is its turn."""
        if (turn := self.turn(client)) is None:
            go_on()
        else:
            turn.add_done_callback(lambda _: go_on())

    def turn(self, client: str) -> "asyncio.Future[None] | None":
        """Return a future that is done when a request of the client may begin, or go on; None if it may now."""
        if not self.contended and client not in self._waiting:
            return None
        if not self._begun:
            self._loop.call_later(PACE, self._next_turn)
        begun = self._begun.get(client, 0)
        if begun < STARTS:
            self._begun[client] = begun + 1
            return None
        turn = self._loop.create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        return turn

    def _next_turn(self) -> None:
        self._begun = {}
        waiting, self._waiting = self._waiting, {}
        for client, turns in waiting.items():
            begun = 0
            while turns and begun < STARTS:
                turn = turns.popleft()
                if not turn.done():  # else its client has gone
                    turn.set_result(None)
                    begun += 1
            self._begun[client] = begun
            if turns:
                self._waiting[client] = turns
        if self._begun:
            self._loop.call_later(PACE, self._next_turn)
