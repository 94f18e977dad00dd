"""Work on a storage without a server: whether it is whole, and everything in it into another one. Any driver's, through the contract."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from composerd.artifacts import sync_directory
from composerd.driver import Driver, StorageCheck, StoredJob
from composerd.driver.registry import open_driver
from composerd.errors import ComposerdError, StorageUnusable
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


async def check(url: str, artifacts: Path | None, progress: Progress) -> StorageCheck:
    """Read everything in a storage, then look whether every artifact's file is there and has its size.

    `artifacts` is where the files are; None: where the driver offers.
    """
    found = await open_driver(url).check()
    if found.problems:
        return found
    problems: list[str] = []
    driver = open_driver(url)
    async with started(driver, create=False):
        root = _root(artifacts, driver)
        total = sum((await driver.info()).jobs.values())
        done = 0
        async for job in driver.dump():
            for artifact in job.artifacts:
                problem = await asyncio.to_thread(_problem, root, artifact)
                if problem is not None:
                    problems.append(f"job {job.new.id}: {artifact.name!r}: {problem}")
            done += 1
            progress(done, total)
    return msgspec.structs.replace(found, problems=tuple(problems))


async def move(
    source: Driver, target: Driver, files_from: Path | None, files_to: Path | None, progress: Progress
) -> Moved:
    """Copy every job, with its history and its files, into another storage; both are started, and no server runs on either.

    A job's files are there before the job is. What is there already is left as it is, so that it can be run again after
    an interruption. The source is not changed. Raises `ArtifactsElsewhere`, and what the drivers raise.
    """
    source_root, target_root = _root(files_from, source), _root(files_to, target)
    total = sum((await source.info()).jobs.values())
    done = copied = 0
    async for jobs in _some(source.dump()):
        for job in jobs:
            for artifact in job.artifacts:
                copied += await asyncio.to_thread(_copy, source_root, target_root, artifact)
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


def _root(given: Path | None, driver: Driver) -> Path | None:
    if given is not None:
        return given
    return None if driver.artifacts_directory is None else Path(driver.artifacts_directory)


def _problem(root: Path | None, artifact: Artifact) -> str | None:
    if root is None:
        return "it is not known where the files are: say --artifacts"
    try:
        size = (root / artifact.place).stat().st_size
    except OSError as exc:
        return f"its file {root / artifact.place} cannot be read: {exc.strerror}"
    if size != artifact.size:
        return f"its file {root / artifact.place} has {size} bytes, not {artifact.size}"
    return None


def _copy(source: Path | None, target: Path | None, artifact: Artifact) -> bool:
    """Copy a file unless it is there; whether it was copied. On stable storage, whole or not at all."""
    if source is None or target is None:
        raise ArtifactsElsewhere(
            f"jobs have artifacts, and the storage {'they come from' if source is None else 'they go to'} offers no "
            f"directory for files: say {'--from-artifacts' if source is None else '--to-artifacts'}"
        )
    path = target / artifact.place
    if path.exists() and path.stat().st_size == artifact.size:
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    try:
        with (source / artifact.place).open("rb") as old, partial.open("wb") as new:
            shutil.copyfileobj(old, new, 1024 * 1024)
            os.fsync(new.fileno())
    except OSError as exc:
        raise StorageUnusable(
            f"the artifact {artifact.name!r} cannot be copied: {exc.filename}: {exc.strerror}"
        ) from exc
    partial.replace(path)
    for directory in (path.parent, path.parent.parent, target):
        sync_directory(directory)
    return True
