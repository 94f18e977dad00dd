"""The bytes of bodies and answers that the server has in memory, counted by client in accounts of their own."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from composerd.shares import Shares

MEBIBYTE = 1024 * 1024

SMALL = 16 * 1024
"""Bodies and answers up to this size are not counted: the limit of connections bounds them."""


class Account(Shares):
    """A number of bytes that clients share.

    What is refused when there is no room is taken with `take`. What is in memory already is counted with `hold`.
    """

    def __init__(self, what: str, limit: int, largest: int) -> None:
        """Share `limit` bytes of `what`, or twice the largest body if that is more."""
        super().__init__(f"bytes of {what} in memory", max(limit, 2 * largest), least=largest)
        self._freed: asyncio.Future[None] | None = None

    def check(self, client: str, amount: int = 1) -> None:
        """Raise `Unavailable` if the client could not take so many bytes now."""
        self.take(client, amount)
        self.free(client, amount)

    def hold(self, client: str, amount: int) -> None:
        """Count bytes that are in memory already, whatever the client's share; `free` ends that."""
        self.used += amount
        self._held[client] = self._held.get(client, 0) + amount

    def free(self, client: str, amount: int = 1) -> None:
        """Stop counting bytes of a client."""
        super().free(client, amount)
        if self._freed is not None and self.used < self.limit:
            self._freed.set_result(None)
            self._freed = None

    @contextmanager
    def taken(self, client: str, amount: int) -> Iterator[None]:
        """Count bytes for the length of a block. Raises `Unavailable` if the client would have more than its share."""
        self.take(client, amount)
        try:
            yield
        finally:
            self.free(client, amount)

    @contextmanager
    def held(self, client: str, amount: int) -> Iterator[None]:
        """Count bytes that are in memory already for the length of a block."""
        self.hold(client, amount)
        try:
            yield
        finally:
            self.free(client, amount)

    async def wait_for_room(self) -> None:
        """Wait until fewer bytes than the limit are counted."""
        while self.used >= self.limit:
            if self._freed is None:
                self._freed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._freed)


class Budgets:
    """The accounts, so that none of these can starve another. They have 512 MiB together, or more for large bodies."""

    def __init__(self, largest: int) -> None:
        """Let a body have up to `largest` bytes. One such body is accepted while its account is empty."""
        self.submissions = Account("submissions", 192 * MEBIBYTE, largest)
        self.results = Account("results", 128 * MEBIBYTE, largest)
        self.claims = Account("jobs that are handed over", 120 * MEBIBYTE, largest)
        self.answers = Account("answers", 72 * MEBIBYTE, largest + MEBIBYTE)  # a job with the largest progress fits

    def used(self) -> dict[str, int]:
        """Return the bytes that are counted, by account."""
        return {name: account.used for name, account in vars(self).items()}
