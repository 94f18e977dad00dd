"""Removes files that are no longer needed: leftovers of a crash once after a start, all others as soon as possible."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from uuid import UUID

from composerd.artifacts.files import Files
from composerd.driver import Driver
from composerd.errors import ComposerdError, ResourcesExhausted, Unavailable
from composerd.ids import parse_uuid
from composerd.models import Artifact, Job, JobState, News

log = logging.getLogger(__name__)

_JOBS_AT_ONCE = 100
_RETRY_AFTER = 10.0


class Sweeper:
    """Removes files that belong to no attempt and no job.

    A file is removed in three cases: its job does not exist; its job has ended and does not name the file; or its
    attempt has ended, that is, the job has had a later attempt, or has none running. Each of these is permanent, so
    servers that share the files need no lock. Files are listed before their jobs are read: whatever the read reports
    as over was over for every listed file, and a newer file is not in the list.
    """

    def __init__(self, files: Files, driver: Driver) -> None:
        self._files = files
        self._driver = driver
        self._due = files.leftovers

    def on_news(self, news: News) -> None:
        """Schedule the jobs whose attempt has ended, to remove files that the attempt did not publish."""
        uploading = self._files.uploading
        if uploading:
            for job_id in (*news.ended, *news.requeued):
                if job_id in uploading:
                    uploading.discard(job_id)
                    self._due.put_nowait(job_id)

    def on_removed(self, job_ids: Iterable[UUID]) -> None:
        """Schedule jobs that were removed from the storage."""
        for job_id in job_ids:
            self._due.put_nowait(job_id)

    async def run(self) -> None:
        """Sweep all files, then those of scheduled jobs, until canceled."""
        await self._sweep_all()
        while True:
            job_ids = [await self._due.get()]
            while not self._due.empty() and len(job_ids) < _JOBS_AT_ONCE:
                job_ids.append(self._due.get_nowait())
            try:
                for job_id in job_ids:
                    async for locations in self._files.list(f"{job_id}/"):
                        await self._sweep(locations)
            except ResourcesExhausted as exc:
                log.warning(
                    "files of %s were not removed, trying again in %.0f s: %s", _jobs(job_ids), _RETRY_AFTER, exc
                )
                await asyncio.sleep(_RETRY_AFTER)
                self.on_removed(job_ids)
            except ComposerdError as exc:
                jobs = _jobs(job_ids)
                log.warning("files of %s were not removed, the next start of the server removes them: %s", jobs, exc)

    async def _sweep_all(self) -> None:
        while True:
            try:
                if not await self._is_ours():
                    log.error(
                        "removed no artifact files: the storage knows none of the jobs that they belong to; "
                        "check that --storage and --artifacts belong together"
                    )
                    return
                async for locations in self._files.list(""):
                    await self._sweep(locations)
            except Unavailable as exc:
                log.warning("cannot remove unused artifact files, trying again in %.0f s: %s", _RETRY_AFTER, exc)
                await asyncio.sleep(_RETRY_AFTER)
            except ComposerdError as exc:
                log.warning("cannot remove unused artifact files: %s", exc)
                return
            else:
                return

    async def _is_ours(self) -> bool:
        """Return whether the storage knows any job that has files, or there are no files.

        Otherwise the storage URL is probably wrong, and sweeping would remove the files of another storage.
        """
        has_files = False
        async with aclosing(self._files.list("")) as listing:
            async for locations in listing:
                job_ids = list(_by_job(locations))
                has_files |= bool(job_ids)
                if any(job is not None for job in await self._driver.listed(job_ids)):
                    return True
        return not has_files

    async def _sweep(self, locations: Sequence[str]) -> None:
        listed = _by_job(locations)
        job_ids = list(listed)
        self._files.uploading.update(job_ids)  # before the read, so that an end right after it schedules the job again
        jobs = await self._driver.listed(job_ids)
        artifacts = await self._driver.artifacts(job_ids)
        unused: list[str] = []
        for job_id, job, attached in zip(job_ids, jobs, artifacts, strict=True):
            if job is None or job.state.ended:
                self._files.uploading.discard(job_id)
            unused.extend(_unused(listed[job_id], job, attached))
        await self._files.remove(unused)


def _jobs(job_ids: Sequence[UUID]) -> str:
    return "1 job" if len(job_ids) == 1 else f"{len(job_ids)} jobs"


def _by_job(locations: Iterable[str]) -> dict[UUID, list[str]]:
    listed: dict[UUID, list[str]] = {}
    for location in locations:
        if (job_id := parse_uuid(location.partition("/")[0])) is not None:
            listed.setdefault(job_id, []).append(location)
    return listed


def _unused(locations: Iterable[str], job: Job | None, attached: Iterable[Artifact]) -> list[str]:
    """Return those of a job's locations that belong to no attempt and no job any more."""
    if job is None:
        return list(locations)
    used = {artifact.location for artifact in attached} if job.state.ended else set()
    last_ended = job.attempt - 1 if job.state is JobState.RUNNING else job.attempt
    return [location for location in locations if location not in used and _attempt_number(location) <= last_ended]


def _attempt_number(location: str) -> int:
    number = location.split("/")[1]
    return int(number) if number.isdigit() else 0
