"""Looks at a storage, checks it, and copies everything in it to another one; works with every driver."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from uuid import UUID

import msgspec

from composerd.artifacts.files import Files
from composerd.artifacts.stores import open_store
from composerd.driver import Driver, StorageCheck, StorageInfo, StoredJob
from composerd.driver.registry import open_driver
from composerd.errors import ArtifactNotFound, ComposerdError, StorageMissing
from composerd.models import Artifact, JobFilter

JOBS_AT_ONCE = 1000
"""Maximum number of jobs whose artifacts are listed in one call."""

MOVED_AT_ONCE = 100
"""Maximum number of jobs that are stored in one call."""

BYTES_MOVED_AT_ONCE = 16 * 1024 * 1024
"""Size in bytes of args and results from which on a call stores no further jobs."""

Progress = Callable[[int, int], None]
"""Called with the number of jobs that are done and the number of all jobs."""


class Moved(msgspec.Struct, frozen=True):
    """The result of a move."""

    jobs: int
    """Jobs that are in the target now, including those that were there before."""
    artifacts: int
    """Files that were copied, without those that were there before."""


class ArtifactsElsewhere(ComposerdError):
    """Jobs have artifacts, but the location of their files, or the destination, is unknown."""

    code = "artifacts_elsewhere"


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
async def _files(directory_or_url: str | None, *, create: bool) -> AsyncIterator[Files | None]:
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


async def migrate(url: str, *, create: bool) -> str:
    """Upgrade the format of a storage, and return what was done: `is up to date`, for example.

    With `create`, a storage that does not exist is created. Raises what `Driver.start` raises.
    """
    driver = open_driver(url)
    try:
        done = await driver.migrate()
    except StorageMissing:
        if not create:
            raise
        async with started(open_driver(url), create=True):
            return "was created"
    finally:
        await driver.close()
    return "is up to date" if done is None else f"was {done}"


async def info(url: str) -> StorageInfo:
    """Return a summary of a storage, and change nothing. Raises what `Driver.start_reading` raises."""
    driver = open_driver(url)
    async with reading(driver) as not_read:
        found = await driver.info()
    return msgspec.structs.replace(found, not_checked=(*found.not_checked, *not_read))


async def check(url: str, artifacts: str | None, progress: Progress) -> StorageCheck:
    """Read everything in a storage, then compare every artifact with its file, and return the problems found.

    Nothing is changed, and a server may use the storage meanwhile. `artifacts` is the directory of the files or the URL
    of an artifact store; None: the directory that the driver offers. If the driver finds problems, the artifacts are
    not checked.
    """
    driver = open_driver(url)
    try:
        found = await driver.check()
    finally:
        await driver.close()
    if found.problems:
        return _without_artifacts(found, "the storage is damaged")
    driver = open_driver(url)
    directory = artifacts or driver.artifacts_directory
    if directory is None:
        return _without_artifacts(found, "name their directory, or the URL of their store, with --artifacts")
    async with reading(driver), _files(directory, create=False) as files:
        total = sum((await driver.info()).jobs.values())
        done = compared = 0
        wrong: dict[tuple[UUID, str], str] = {}
        async for job_id, listed in artifacts_of(driver):
            for artifact in listed:
                compared += 1
                if files is not None and (problem := await _problem(files, artifact)) is not None:
                    wrong[job_id, artifact.location] = f"job {job_id}: {artifact.name!r}: {problem}"
            done += 1
            progress(done, total)
    still = await _still_listed(url, wrong)
    problems = [problem for key, problem in wrong.items() if key in still]
    not_checked = found.not_checked
    if compared:
        not_checked = (
            *not_checked,
            f"the contents of {compared} artifacts: only the sizes of their files were compared",
        )
    return msgspec.structs.replace(found, problems=tuple(problems), not_checked=not_checked)


def _without_artifacts(found: StorageCheck, why: str) -> StorageCheck:
    return msgspec.structs.replace(found, not_checked=(*found.not_checked, f"the artifacts: {why}"))


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


async def _still_listed(url: str, found: Collection[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
    """Return which of some files of jobs are still those of the jobs, once the files were found to be wrong.

    A server may have deleted a job and its files since they were listed.
    """
    if not found:
        return set()
    ids = list({job_id for job_id, _ in found})
    driver = open_driver(url)
    async with reading(driver):
        listed = await driver.artifacts(ids)
    return {(job_id, one.location) for job_id, artifacts in zip(ids, listed, strict=True) for one in artifacts}


async def move(
    source: Driver, target: Driver, files_from: str | None, files_to: str | None, progress: Progress
) -> Moved:
    """Copy every job, with its history and its files, into another storage, and return the counts.

    The source has to be open for reading, the target started, and no server may run on either storage. The source is
    not changed. A job's files are copied before the job. Jobs and files that the target has already are skipped, so an
    interrupted move can be repeated. Raises `ArtifactsElsewhere`, and the errors of the drivers and the artifact
    stores.
    """
    async with (
        _files(files_from or source.artifacts_directory, create=False) as old,
        _files(files_to or target.artifacts_directory, create=True) as new,
    ):
        total = sum((await source.info()).jobs.values())
        done = copied = 0
        async for jobs in _in_batches(source.dump()):
            for job in jobs:
                for artifact in job.artifacts:
                    copied += await _copy(old, new, artifact)
            await target.load(jobs)
            done += len(jobs)
            progress(done, total)
    return Moved(done, copied)


async def _in_batches(jobs: AsyncIterator[StoredJob]) -> AsyncIterator[list[StoredJob]]:
    batch: list[StoredJob] = []
    size = 0
    async for job in jobs:
        batch.append(job)
        size += len(job.new.args or b"") + len(job.result or b"")
        if len(batch) == MOVED_AT_ONCE or size >= BYTES_MOVED_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _problem(files: Files, artifact: Artifact) -> str | None:
    size = await files.size(artifact.location)
    if size is None:
        return f"its file {files.description}/{artifact.location} is missing"
    if size != artifact.size:
        return f"its file {files.description}/{artifact.location} has {size} bytes, not {artifact.size}"
    return None


async def _copy(source: Files | None, target: Files | None, artifact: Artifact) -> bool:
    """Copy a file unless the target has it, and return whether it was copied."""
    if source is None or target is None:
        raise ArtifactsElsewhere(
            f"jobs have artifacts, but the {'source' if source is None else 'target'} storage has no directory for "
            f"files: name one with {'--from-artifacts' if source is None else '--to-artifacts'}"
        )
    if await target.size(artifact.location) == artifact.size:
        return False
    try:
        async with aclosing(source.read(artifact.location, 0, artifact.size)) as parts:
            await target.copy(artifact.location, parts)
    except ArtifactNotFound as exc:
        raise ArtifactsElsewhere(
            f"cannot copy the artifact {artifact.name!r}: its file {source.description}/{artifact.location} is missing"
        ) from exc
    return True
