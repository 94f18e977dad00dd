"""Removes files when what they belonged to is over: at once for what happens now, and once after a start for what a crash left."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from uuid import UUID

from composerd.artifacts.files import Files
from composerd.driver import Driver
from composerd.errors import ComposerdError, Unavailable
from composerd.ids import parse_uuid
from composerd.models import Artifact, Job, JobState, News

log = logging.getLogger(__name__)

_SWEPT_AT_ONCE = 100
_SWEPT_AGAIN = 10.0


class Sweeper:
    """Removes the files that belong to nobody.

    Other servers work on the same files meanwhile, and none of them waits for another. A file goes in one of three cases,
    and none of these can cease to be true: its job is gone; its job has ended, and does not name it; its attempt is over,
    that is, the job has had a later one, or runs none. So a job is looked at after its files were listed: what a look says is over
    was so for every file in the list, and a file that came later is not in it.
    """

    def __init__(self, files: Files, driver: Driver) -> None:
        self._files = files
        self._driver = driver
        self._due: asyncio.Queue[UUID] = asyncio.Queue()

    def heard(self, news: News) -> None:
        """Attempts have ended: what they did not publish is over."""
        uploading = self._files.uploading
        if uploading:
            for job_id in (*news.ended, *news.requeued):
                if job_id in uploading:
                    uploading.discard(job_id)
                    self._due.put_nowait(job_id)

    def removed(self, job_ids: Iterable[UUID]) -> None:
        """Jobs are gone from the storage."""
        for job_id in job_ids:
            self._due.put_nowait(job_id)

    async def run(self) -> None:
        """Sweep, for ever."""
        await self._sweep_all()
        while True:
            job_ids = [await self._due.get()]
            while not self._due.empty() and len(job_ids) < _SWEPT_AT_ONCE:
                job_ids.append(self._due.get_nowait())
            try:
                for job_id in job_ids:
                    async for places in self._files.list(f"{job_id}/"):
                        await self._sweep(places)
            except ComposerdError as exc:
                log.warning("%d jobs' artifacts were not swept; the next start does it: %s", len(job_ids), exc)

    async def _sweep_all(self) -> None:
        while True:
            try:
                if not await self._is_ours():
                    log.error(
                        "the storage knows none of the jobs that have files among the artifacts: are these another storage's? "
                        "None of them is removed"
                    )
                    return
                async for places in self._files.list(""):
                    await self._sweep(places)
            except Unavailable as exc:
                log.warning("the artifacts are swept later: %s", exc)
                await asyncio.sleep(_SWEPT_AGAIN)
            except ComposerdError as exc:
                log.warning("the artifacts were not swept: %s", exc)
                return
            else:
                return

    async def _is_ours(self) -> bool:
        """Whether the storage knows any job that has files: a server with a wrong URL would remove all that another storage has."""
        there_are = False
        async with aclosing(self._files.list("")) as listing:
            async for places in listing:
                job_ids = list(_by_job(places))
                there_are |= bool(job_ids)
                if any(job is not None for job in await self._driver.get(job_ids)):
                    return True
        return not there_are

    async def _sweep(self, places: Sequence[str]) -> None:
        listed = _by_job(places)
        job_ids = list(listed)
        self._files.uploading.update(job_ids)  # before the look, so that an end right after it is heard
        jobs = await self._driver.get(job_ids)
        artifacts = await self._driver.artifacts(job_ids)
        over: list[str] = []
        for job_id, job, attached in zip(job_ids, jobs, artifacts, strict=True):
            if job is None or job.state.ended:
                self._files.uploading.discard(job_id)
            over.extend(_over(listed[job_id], job, attached))
        await self._files.remove(over)


def _by_job(places: Iterable[str]) -> dict[UUID, list[str]]:
    listed: dict[UUID, list[str]] = {}
    for place in places:
        if (job_id := parse_uuid(place.partition("/")[0])) is not None:
            listed.setdefault(job_id, []).append(place)
    return listed


def _over(places: Iterable[str], job: Job | None, attached: Iterable[Artifact]) -> list[str]:
    """Those of a job's files that belong to nobody any more."""
    if job is None:
        return list(places)
    keep = {artifact.location for artifact in attached} if job.state.ended else set()
    over = job.attempt - 1 if job.state is JobState.RUNNING else job.attempt
    return [place for place in places if place not in keep and _attempt(place) <= over]


def _attempt(place: str) -> int:
    number = place.split("/")[1]
    return int(number) if number.isdigit() else 0
