"""Jobs that were handed over and that no worker has called about: how many there are, and to whom they went."""

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from composerd.models import Claimed, Key

log = logging.getLogger(__name__)

REMEMBERED = 10_000
"""The most handovers of which it is remembered to whom they went."""

ADDRESSES = 100
"""The most addresses that are counted in a span of time; what went to others counts as well, without its address."""

SPAN = 10.0
"""Length in seconds of the spans of time in which handovers are counted."""

SPANS = 6
"""Number of spans that are looked at together: a minute."""

TOO_MANY = 3
"""Number of unanswered handovers within a minute from which on they are reported, if they are more than a tenth."""


class _To(msgspec.Struct, frozen=True):
    """The receiver of a handover."""

    client: str
    address: str
    key: Key


class _Span(msgspec.Struct):
    number: int
    handed_over: int = 0
    unanswered: Counter[str] = msgspec.field(default_factory=Counter)
    """The unanswered handovers by address; those beyond `ADDRESSES` have none."""


class Handovers:
    """Counts handovers, and says when they go unanswered more often than they should.

    Some do at any time, because workers crash. Many do if there is a proxy that does not tell when its client has gone.
    The storage knows which attempts were never confirmed, also if the worker called another server, and its news say
    it. So a heartbeat costs nothing here.
    """

    def __init__(self, clock: Callable[[], float], doubt: Callable[[str, Key], None]) -> None:
        """Make one; `doubt` is called with the client, and the key of the job, of each unanswered handover."""
        self._clock = clock
        self._doubt = doubt
        self._latest: OrderedDict[UUID, _To] = OrderedDict()
        """The receivers of the latest handovers, by job."""
        self._spans: deque[_Span] = deque()
        self._logged_at = float("-inf")
        self.unanswered = 0
        """Number of handovers that went unanswered since the start."""

    def delivered(self, claimed: Claimed, client: str, address: str) -> None:
        """Note that a job was written to a client, whose connection comes from an address."""
        latest = self._latest
        latest[claimed.job_id] = _To(client, address, claimed.key)
        if len(latest) > REMEMBERED:
            latest.popitem(last=False)
        self._span().handed_over += 1

    def ended_unanswered(self, job_ids: Sequence[UUID]) -> None:
        """Count jobs whose attempts have ended without a call of their worker, if this server handed them over."""
        for job_id in job_ids:
            to = self._latest.pop(job_id, None)
            if to is None:
                continue
            self._doubt(to.client, to.key)
            self.unanswered += 1
            unanswered = self._span().unanswered
            unanswered[to.address if to.address in unanswered or len(unanswered) < ADDRESSES else ""] += 1
        if self._clock() - self._logged_at >= SPAN * SPANS and (found := self._too_many()) is not None:
            self._logged_at = self._clock()
            log.warning(
                "%d jobs that were handed over went unanswered within a minute, %d of them at %s: if a proxy is there, "
                "it does not tell when its clients have gone; see docs/how-to/behind-a-proxy.md",
                *found,
            )

    @property
    def problem(self) -> str | None:
        """A sentence that says that handovers go unanswered more often than they should; None if they do not."""
        found = self._too_many()
        if found is None:
            return None
        count, most, address = found
        return f"jobs that were handed over go unanswered: {count} within a minute, {most} of them at {address}"

    def _too_many(self) -> tuple[int, int, str] | None:
        """Return how many handovers went unanswered within a minute, how many of them at the address that has most.

        None if that is not too many.
        """
        latest = self._span().number
        spans = [span for span in self._spans if span.number > latest - SPANS]
        unanswered = sum((span.unanswered for span in spans), Counter[str]())
        count = unanswered.total()
        if count < TOO_MANY or count * 10 <= sum(span.handed_over for span in spans):
            return None
        address, most = unanswered.most_common(1)[0]
        return count, most, address or "other addresses"

    def _span(self) -> _Span:
        number = int(self._clock() // SPAN)
        spans = self._spans
        if not spans or spans[-1].number != number:
            spans.append(_Span(number))
            if len(spans) > SPANS:
                spans.popleft()
        return spans[-1]
