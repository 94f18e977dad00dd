"""Notes outages of a storage: each is logged when it begins and when it ends, however many calls fail meanwhile."""

import logging
import time
from collections.abc import Callable

from composerd.errors import ComposerdError, DriverError, DriverTimeout, Unavailable

log = logging.getLogger(__name__)

SETTLED = 1.0
"""Time in seconds without a failure after which a success of a method that had failed ends an outage."""

QUIET = 10.0
"""Time in seconds without a failure after which any success ends an outage."""

_RENEWING = frozenset({"touch", "attach"})
"""Methods with which workers renew their leases."""


def is_outage(error: BaseException | None) -> bool:
    """Return True if an error says that the storage does not answer, rather than that a driver has a bug."""
    return isinstance(error, Unavailable) and (isinstance(error, DriverTimeout) or not isinstance(error, DriverError))


class Outage:
    """The present outage of a storage, if there is one.

    It begins when a call fails because the storage does not answer. It ends when every method that failed has succeeded
    again, or when one of them succeeds and none has failed for a moment. Failures before the storage has ever answered
    are not noted, because the start of the storage reports them. Nor are failures that the driver has logged itself.
    """

    def __init__(self) -> None:
        self.attentive = True
        """True if calls that succeed have to be reported."""
        self.on_end: Callable[[], None] | None = None
        """Called when an outage has ended. Until it is set, nothing is logged."""
        self._failing: set[str] = set()
        """Methods that have not succeeded since they failed."""
        self._failed: set[str] = set()
        """Methods that failed in this outage."""
        self._renewals_failed = False
        self._ends_with_grace = False
        """True if workers could not renew their leases in this outage."""
        self._answered = False
        self._began = 0.0
        self._failed_at = 0.0
        self._failures = 0

    @property
    def lasts(self) -> bool:
        """True while there is an outage."""
        return bool(self._failed)

    def unrenewed(self) -> bool:
        """Return True if workers could not renew their leases since this was last called."""
        failed = self._renewals_failed
        self._renewals_failed = False
        return failed

    def failed(self, method: str, error: ComposerdError) -> None:
        """Note that a call failed."""
        renewing = method in _RENEWING and isinstance(error, Unavailable)
        self._renewals_failed |= renewing
        if self.on_end is None or not is_outage(error) or error.logged:
            return  # what the driver has logged is not over by itself
        error.logged = True
        if not self._answered:
            return
        now = time.monotonic()
        if not self._failed:
            self._began = now
            self._failures = 0
            self._ends_with_grace = False
            log.warning(
                "the storage does not answer: requests that need it fail until it does; %s failed: %s", method, error
            )
        self._failing.add(method)
        self._failed.add(method)
        self._failed_at = now
        self._failures += 1
        self._ends_with_grace |= renewing
        self.attentive = True

    def succeeded(self, method: str) -> None:
        """Note that a call succeeded."""
        self._answered = True
        if not self._failed:
            self.attentive = False
            return
        self._failing.discard(method)
        now = time.monotonic()
        if self._failing and now - self._failed_at < (SETTLED if method in self._failed else QUIET):
            return
        self._failing.clear()
        self._failed.clear()
        self.attentive = False
        log.warning(
            "the storage answers again after %.1f s; failed calls: %d%s",
            now - self._began,
            self._failures,
            "; every running attempt gets a full lease" if self._ends_with_grace else "",
        )
        if self.on_end is not None:
            self.on_end()
