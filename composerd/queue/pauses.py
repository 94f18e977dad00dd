"""Pauses of this process, and jumps of its wall clock: both are noticed by looking at two clocks now and then."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

PAUSE = 2.0
"""Time in seconds between two looks after which the process has stood still: looks come at least every second."""

JUMP = 1.0
"""Largest difference in seconds between the wall clock and the time that has passed that is not a jump."""


class Pauses:
    """Notices that the process was stopped, or that its event loop was blocked, and that the wall clock was set.

    Heartbeats that came meanwhile wait in the sockets, so nobody could renew a lease.
    """

    def __init__(
        self,
        on_jump: Callable[[], None],
        elapsed: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Begin to look. `on_jump` is called when the wall clock was set."""
        self._on_jump = on_jump
        self._elapsed = elapsed
        self._now = now
        self._looked_at = elapsed()
        self._ahead = now() - self._looked_at
        self._stood_still = False

    def look(self) -> None:
        """Compare the clocks with those of the last look. Call it at least every second."""
        elapsed = self._elapsed()
        ahead = self._now() - elapsed
        paused = elapsed - self._looked_at
        jumped = abs(ahead - self._ahead) > JUMP
        self._looked_at, self._ahead = elapsed, ahead
        if paused > PAUSE:
            self._stood_still = True
            log.warning("this server stood still for %.1f s; leases that nobody could renew are extended", paused)
        if jumped:
            self._on_jump()

    def stood_still(self) -> bool:
        """Look, and return True if the process has stood still since this was last called."""
        self.look()
        stood_still, self._stood_still = self._stood_still, False
        return stood_still
