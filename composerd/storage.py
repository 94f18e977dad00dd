"""Work on a storage without a server: whether it is whole, and everything in it into another one. Any driver's, through the contract."""

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
"""Jobs that are stored in one go."""

BYTES_MOVED_AT_ONCE = 16 * 1024 * 1024

Progress = Callable[[int, int], None]
"""Told how many jobs are done, and of how many."""


class Moved(msgspec.Struct, frozen=True):
    """What a move brought over, or found there already."""

    jobs: int
    artifacts: int
    """Files that were copied; those that were there already are not counted."""


class ArtifactsElsewhere(ComposerdError):
    """Jobs have artifacts, and it is not known where their files are or where they go."""

    code = "artifacts_elsewhere"


@asynccontextmanager
async def started(driver: Driver, *, create: bool) -> AsyncIterator[None]:
    """Start a driver, and close it at the end."""
    try:
        await driver.start(create=create)
        yield
    finally:
        await driver.close()


@asynccontextmanager
async def _files(where: str | None, *, create: bool) -> AsyncIterator[Files | None]:
    """The files in a directory or a store; None if it is not known where."""
    if where is None:
        yield None
        return
    files = Files(open_store(where), where)
    try:
        await files.start(create=create)
        yield files
    finally:
        await files.close()


async def check(url: str, artifacts: str | None, progress: Progress) -> StorageCheck:
    """Read everything in a storage, then look whether every artifact's file is there and has its size.

    `artifacts` is where the files are, a directory or the URL of an artifact store; None: where the driver offers.
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
        done = 0
        async for job in driver.dump():
            for artifact in job.artifacts:
                problem = await _problem(files, artifact)
                if problem is not None:
                    problems.append(f"job {job.new.id}: {artifact.name!r}: {problem}")
            done += 1
            progress(done, total)
    return msgspec.structs.replace(found, problems=tuple(problems))


async def move(
    source: Driver, target: Driver, files_from: str | None, files_to: str | None, progress: Progress
) -> Moved:
    """Copy every job, with its history and its files, into another storage; both are started, and no server runs on either.

    A job's files are there before the job is. What is there already is left as it is, so that it can be run again after
    an interruption. The source is not changed. Raises `ArtifactsElsewhere`, and what the drivers and the stores raise.
    """
    async with (
        _files(files_from or source.artifacts_directory, create=False) as old,
        _files(files_to or target.artifacts_directory, create=True) as new,
    ):
        total = sum((await source.info()).jobs.values())
        done = copied = 0
        async for jobs in _some(source.dump()):
            for job in jobs:
                for artifact in job.artifacts:
                    copied += await _copy(old, new, artifact)
            await target.load(jobs)
            done += len(jobs)
            progress(done, total)
    return Moved(done, copied)


async def _some(jobs: AsyncIterator[StoredJob]) -> AsyncIterator[list[StoredJob]]:
    some: list[StoredJob] = []
    size = 0
    async for job in jobs:
        some.append(job)
        size += len(job.new.args or b"") + len(job.result or b"")
        if len(some) == MOVED_AT_ONCE or size >= BYTES_MOVED_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


async def _problem(files: Files | None, artifact: Artifact) -> str | None:
    if files is None:
        return "it is not known where the files are: say --artifacts"
    size = await files.size(artifact.location)
    if size is None:
        return f"its file {files.where}/{artifact.location} is not there"
    if size != artifact.size:
        return f"its file {files.where}/{artifact.location} has {size} bytes, not {artifact.size}"
    return None


async def _copy(source: Files | None, target: Files | None, artifact: Artifact) -> bool:
    """Copy a file unless it is there; whether it was copied."""
    if source is None or target is None:
        raise ArtifactsElsewhere(
            f"jobs have artifacts, and the storage {'they come from' if source is None else 'they go to'} offers no "
            f"directory for files: say {'--from-artifacts' if source is None else '--to-artifacts'}"
        )
    if await target.size(artifact.location) == artifact.size:
        return False
    try:
        async with aclosing(source.read(artifact.location, 0, artifact.size)) as parts:
            await target.copy(artifact.location, parts)
    except ArtifactNotFound as exc:
        raise ArtifactsElsewhere(
            f"the artifact {artifact.name!r} cannot be copied: its file {source.where}/{artifact.location} is not there"
        ) from exc
    return True
