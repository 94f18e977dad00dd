"""The writes of a queue: a batcher for each kind, and what concerns all of them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from composerd.driver import Driver
from composerd.models import Attached, Attachment, Attempt, Enqueued, Finished, Job, NewJob, News, Outcome, Touch
from composerd.queue.batcher import Batcher, ConcurrentBatcher, weightless
from composerd.queue.pulse import Pulse
from composerd.queue.repeating import Call

EDGE = 110
"""Number of bytes of args that take as long to store as one dependency, about: the largest batch is a heavy item."""

LISTED = 1000
"""Number of bytes of a result that take as long to store as the comparison of one listed artifact, about."""

I = TypeVar("I")  # noqa: E741  # item
R = TypeVar("R")


class Writes:
    """The batchers of a driver's writing methods. Each gets one item at a time, and answers it with a future."""

    def __init__(self, driver: Driver, on_news: Callable[[News], None], pulse: Pulse) -> None:
        self._driver = driver
        self._on_news = on_news
        self._pulse = pulse
        self._batchers: list[Batcher[Any, Any]] = []
        self.enqueue: Batcher[Sequence[NewJob], Enqueued] = self._batcher(driver.enqueue, _submission_size)
        self.touch: Batcher[Touch, Attempt] = self._batcher(
            driver.touch, lambda touch: len(touch.partial or b""), changes=False
        )
        self.finish: Batcher[Outcome, Finished] = self._batcher(driver.finish, _outcome_size)
        self.attach: Batcher[Attachment, Attached] = self._batcher(driver.attach)
        self.cancel: Batcher[UUID, Job] = self._batcher(driver.cancel)
        self.delete: Batcher[UUID, Job | None] = self._batcher(driver.delete)
        self.release: Batcher[UUID, Attempt] = self._batcher(driver.release)

    def _batcher(
        self, call: Call[I, R], weigh: Callable[[I], int] = weightless, *, changes: bool = True
    ) -> Batcher[I, R]:
        kind = ConcurrentBatcher if self._driver.capabilities.coalesces else Batcher
        batcher = kind(call, self._on_news, self._pulse, weigh, changes=changes)
        self._batchers.append(batcher)
        return batcher

    @property
    def oldest(self) -> int:
        """The age in beats of the oldest write that the storage has not answered."""
        return max(batcher.oldest for batcher in self._batchers)

    def give_up(self, beats: int) -> None:
        """Answer every write that has taken so many beats, although the storage has not."""
        for batcher in self._batchers:
            batcher.give_up(beats)

    async def close(self) -> None:
        """Wait until every write that has begun is answered.

        Releases are the last, because the tasks that the others wait for may release jobs.
        """
        for batcher in self._batchers:
            await batcher.close()


def _outcome_size(outcome: Outcome) -> int:
    return len(outcome.result) + (0 if outcome.artifacts is None else LISTED * len(outcome.artifacts))


def _submission_size(jobs: Sequence[NewJob]) -> int:
    return sum(len(job.args or b"") + EDGE * len(job.dependencies) for job in jobs)
