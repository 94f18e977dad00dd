"""The file `CLOCK` in the journal's directory: what the next start has to know of the clock and of heartbeats."""

import asyncio
import logging
from uuid import UUID

import msgspec

from composerd.directory import Directory
from composerd.driver.timekeeper import ClockState
from composerd.ownership import NotTrusted

log = logging.getLogger(__name__)

CLOCK = "CLOCK"
"""The name of the file."""


class StoredClock(ClockState, frozen=True):
    """The content of the file."""

    timeouts: dict[UUID, int] = msgspec.field(default_factory=dict)
    """For running attempts during which the clock has jumped, the times at which their jobs' timeouts end them."""
    confirmed: tuple[UUID, ...] = ()
    """The running attempts whose workers have called."""


class ClockFile:
    """Stores the state of a clock, in a thread, one write at a time. Only `keep` and `close` wait for it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._task: asyncio.Task[None] | None = None
        self._failed = False

    def read(self) -> StoredClock:
        """Return the state that was stored last; an empty one if there is none or if it cannot be read.

        Raises `NotTrusted` if another user could have written it.
        """
        try:
            with self._directory.reading(CLOCK) as file:
                return msgspec.json.decode(file.read(), type=StoredClock)
        except FileNotFoundError:
            return StoredClock()
        except NotTrusted:
            raise
        except (OSError, msgspec.DecodeError) as exc:
            log.warning("%s: cannot read when the storage was last open: %s", self._directory.path / CLOCK, exc)
            return StoredClock()

    def store(self, state: StoredClock) -> None:
        """Begin to store a state, unless another one is being stored: then the next call stores a newer one."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(asyncio.to_thread(self._write, state))

    def _write(self, state: StoredClock) -> None:
        try:
            self._directory.write(CLOCK, msgspec.json.encode(state))
        except OSError as exc:
            if not self._failed:
                path = self._directory.path / CLOCK
                log.warning("%s: cannot store when the storage was last open: %s", path, exc.strerror)
            self._failed = True
        else:
            self._failed = False

    async def keep(self, state: StoredClock) -> None:
        """Store a state, after an earlier write has ended. Raises `OSError` if that fails."""
        await self._ended()
        self._task = asyncio.create_task(asyncio.to_thread(self._directory.write, CLOCK, msgspec.json.encode(state)))
        await self._task

    async def close(self, state: StoredClock) -> None:
        """Store the last state, after an earlier write has ended."""
        await self._ended()
        self.store(state)
        await self._ended()

    async def _ended(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])
