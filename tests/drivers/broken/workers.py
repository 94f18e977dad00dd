"""Drivers that break the clauses of workers (W)."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from composerd.models import Worker, WorkerCursor, WorkerPage

from .correct import Correct
from .registry import breaks


@breaks("W1")
class ListsOldestWorkersFirst(Correct):
    """Lists the worker first that was not seen for the longest time."""

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        return (await super().workers(within, ids))[::-1]


@breaks("W2")
class ForgetsDescriptions(Correct):
    """Forgets a worker's description when the worker is seen without one."""

    async def seen(self, workers: "Sequence[Worker]") -> None:
        await super().seen(
            [one if one.arch or one.types else msgspec.structs.replace(one, arch="?") for one in workers]
        )


@breaks("W3")
class OmitsJobsOfWorkers(Correct):
    """Does not say which jobs a worker is running."""

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        return [msgspec.structs.replace(one, jobs=()) for one in await super().workers(within, ids)]


@breaks("W4")
class SkipsAWorkerAfterEachPage(Correct):
    """Begins a page one worker too late."""

    async def worker_page(
        self, within: float, after: WorkerCursor | None, limit: int, channel: str | None = None
    ) -> WorkerPage:
        page = await super().worker_page(within, after, limit + 1 if after else limit, channel)
        return WorkerPage(page.workers[1:], page.next) if after else page


@breaks("W5")
class LetsAnyClientDescribeAWorker(Correct):
    """Replaces the description of a worker, whoever sends it."""

    async def seen(self, workers: "Sequence[Worker]") -> None:
        await super().seen([msgspec.structs.replace(one, client="") for one in workers])


@breaks("W6")
class ForgetsTheOldestWorkersOfAll(Correct):
    """Remembers 100 workers, and forgets those that were not seen for longest, whichever client has named them."""

    async def workers(self, within: float, ids: "Sequence[UUID] | None" = None) -> "Sequence[Worker]":
        remembered = (await super().workers(within))[:100]
        return [one for one in remembered if ids is None or one.id in ids]


@breaks("W7")
class KeepsTheProblemOfAWorker(Correct):
    """Shows the problem of a worker that describes itself again without one."""

    async def seen(self, workers: "Sequence[Worker]") -> None:
        known = {one.id: one for one in await self.workers(3600, [one.id for one in workers])}
        await super().seen(
            [
                msgspec.structs.replace(one, problem=known[one.id].problem)
                if one.types and one.problem is None and one.id in known
                else one
                for one in workers
            ]
        )


@breaks("W8")
class LetsAnyClientSignAWorkerOff(Correct):
    """Shows a worker no longer, whoever says that it has ended."""

    async def sign_off(self, workers: "Sequence[Worker]") -> None:
        await super().sign_off([msgspec.structs.replace(one, client="") for one in workers])


@breaks("W9")
class BelievesTheLastReport(Correct):
    """Shows what was reported last of a worker, although the worker has sent something else since, or has ended."""

    async def seen(self, workers: "Sequence[Worker]") -> None:
        await super().seen([msgspec.structs.replace(one, age=0.0) for one in workers])


@breaks("W10")
class ShowsWorkersOfEveryChannel(Correct):
    """Returns the workers of all channels, whichever is asked for."""

    async def worker_page(
        self, within: float, after: WorkerCursor | None, limit: int, channel: str | None = None
    ) -> WorkerPage:
        del channel
        return await super().worker_page(within, after, limit)
