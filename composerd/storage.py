"""Checks a storage, and copies everything in it to another one, while no server runs on it; works with every driver."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import msgspec

from composerd.artifacts.files import Files
from composerd.artifacts.stores import open_store
from composerd.driver import Driver, StorageCheck, StoredJob
from composerd.driver.registry import open_driver
from composerd.errors import ArtifactNotFound, ComposerdError
from composerd.models import Artifact

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


async def check(url: str, artifacts: str | None, progress: Progress) -> StorageCheck:
    """Read everything in a storage, then compare every artifact with its file, and return the problems found.

    `artifacts` is the directory of the files or the URL of an artifact store; None: the directory that the driver
    offers. If the driver finds problems, the artifacts are not checked.
    """
    found = await open_driver(url).check()
    if found.problems:
        return found
    problems: list[str] = []
    driver = open_driver(url)
    async with (
        started(driver, create=False),
        _files(artifacts or driver.artifacts_directory, create=False) as files,
    ):
        total = sum((await driver.info()).jobs.values())
        done = unchecked = 0
        async for job in driver.dump():
            if files is None:
                unchecked += len(job.artifacts)
            else:
                for artifact in job.artifacts:
                    problem = await _problem(files, artifact)
                    if problem is not None:
                        problems.append(f"job {job.new.id}: {artifact.name!r}: {problem}")
            done += 1
            progress(done, total)
    if unchecked:
        problems.append("Artifacts were not checked: name their directory with --artifacts.")
    return msgspec.structs.replace(found, problems=tuple(problems))


async def move(
    source: Driver, target: Driver, files_from: str | None, files_to: str | None, progress: Progress
) -> Moved:
    """Copy every job, with its history and its files, into another storage, and return the counts.

    Both drivers have to be started, and no server may run on either storage. The source is not changed. A job's files
    are copied before the job. Jobs and files that the target has already are skipped, so an interrupted move can be
    repeated. Raises `ArtifactsElsewhere`, and the errors of the drivers and the artifact stores.
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
