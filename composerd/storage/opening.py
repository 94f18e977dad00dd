"""Opening a storage and its artifacts for the length of a block, and going through the artifacts of all jobs."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from composerd.artifacts.files import Files
from composerd.artifacts.stores import open_store
from composerd.driver import Driver
from composerd.models import Artifact, JobFilter

JOBS_AT_ONCE = 1000
"""Maximum number of jobs whose artifacts are listed in one call."""

Progress = Callable[[int, int], None]
"""Called with the number of jobs that are done and the number of all jobs."""


@asynccontextmanager
async def started(driver: Driver, *, create: bool) -> AsyncIterator[None]:
    """Start a driver, and close it at the end of the block, also if it fails to start.

    Raises what `Driver.start` raises.
    """
    try:
        await driver.start(create=create)
        yield
    finally:
        await driver.close()


@asynccontextmanager
async def reading(driver: Driver, *, alone: bool = False) -> AsyncIterator[Sequence[str]]:
    """Open a driver to read its storage, and close it at the end of the block. Yield what cannot be read.

    Raises what `Driver.start_reading` raises.
    """
    try:
        yield await driver.start_reading(alone=alone)
    finally:
        await driver.close()


@asynccontextmanager
async def opened_files(directory_or_url: str | None, *, create: bool) -> AsyncIterator[Files | None]:
    """Open the files in a directory or an artifact store for the block; yield None if neither is named."""
    if directory_or_url is None:
        yield None
        return
    files = Files(open_store(directory_or_url), directory_or_url)
    try:
        await files.start(create=create)
        yield files
    finally:
        await files.close()


async def artifacts_of(driver: Driver) -> AsyncIterator[tuple[UUID, Sequence[Artifact]]]:
    """Yield the id of every job with its artifacts, newest first."""
    cursor: int | None = None
    while True:
        page = await driver.list(JobFilter(), cursor, JOBS_AT_ONCE)
        ids = [job.id for job in page.jobs]
        for job_id, artifacts in zip(ids, await driver.artifacts(ids), strict=True):
            yield job_id, artifacts
        if page.next is None:
            return
        cursor = page.next
