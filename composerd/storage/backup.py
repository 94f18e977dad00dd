"""Backing up a storage with its artifacts, while a server may use it.

The storage is copied first, and then the files that the copy names: a file is there before a storage names it. What the
server removes in between belongs to jobs that were deleted meanwhile, and those are deleted from the copy too.
"""

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import msgspec

from composerd.artifacts.directory import DirectoryStore
from composerd.artifacts.files import Files
from composerd.directory import make_directory
from composerd.driver.registry import open_driver
from composerd.errors import ComposerdError, StorageUnusable
from composerd.file_errors import translated
from composerd.models import Artifact
from composerd.ownership import NotTrusted
from composerd.stable_storage import sync_directory, sync_file_system
from composerd.storage.checking import still_listed
from composerd.storage.moving import ArtifactsElsewhere, copy_artifact
from composerd.storage.opening import Progress, artifacts_of, opened_files, reading, started

UNFINISHED = ".unfinished"
"""The suffix of the name of a directory that is not a complete backup yet."""

ARTIFACTS = "artifacts"
"""The directory of the artifacts in a backup."""

_ROUNDS = 5
"""Maximum number of times that the storage is copied while files vanish whose jobs have not ended in the copy."""

_COPIED_AT_ONCE = 200
"""Number of files that are linked or copied in one call."""

_Named = tuple[UUID, Artifact]
"""A job and a file that it names."""


class BackedUp(msgspec.Struct, frozen=True):
    """The result of a backup."""

    jobs: int
    artifacts: int
    problems: tuple[str, ...]
    """A sentence for each artifact whose file is missing or has another size."""


class BackupRefused(ComposerdError):
    """A backup cannot be made in this directory."""

    code = "backup_refused"


async def back_up(url: str, directory: Path, artifacts: str | None, progress: Progress) -> BackedUp:
    """Make a copy of a storage and its artifacts in a directory, which is empty or does not exist.

    Until the copy is complete and on stable storage, the directory has another name. `artifacts` is as for `check`.
    Raises `BackupRefused`, `NotOffered`, and the errors of the driver and the artifact store.
    """
    artifacts = artifacts or open_driver(url).artifacts_directory
    try:
        async with _unfinished(directory, artifacts) as unfinished:
            async with (
                opened_files(artifacts, create=False) as source,
                opened_files(str(unfinished / ARTIFACTS), create=True) as target,
            ):
                assert target is not None, "a directory is named"
                done = await _Backup(url, unfinished, source, target, progress).make()
            await asyncio.to_thread(_publish, unfinished, directory)
    except NotTrusted as exc:
        raise StorageUnusable(exc.sentence) from exc
    except OSError as exc:
        raise translated(exc, f"the backup in {directory} failed") from exc
    return done


class _Backup:
    """One backup that is being made in a directory."""

    def __init__(self, url: str, directory: Path, source: Files | None, target: Files, progress: Progress) -> None:
        self._url = url
        self._directory = directory
        self._source = source
        self._target = target
        self._progress = progress
        self._copied: set[str] = set()
        """The locations of the files that the backup has."""
        self._damaged: dict[str, str] = {}
        """A sentence for each of these files that does not have the size of its artifact, by location."""

    async def make(self) -> BackedUp:
        """Copy the storage and the files that it names, and return the result."""
        rounds = 0
        while True:
            rounds += 1
            copy = await open_driver(self._url).backup(self._directory)
            missing = await self._copy_files(copy)
            named = await still_listed(self._url, {(job_id, one.location) for job_id, one in missing})
            gone = {job_id for job_id, one in missing if (job_id, one.location) not in named}
            deleted = await _delete(copy, gone) if gone else set()
            if deleted == gone or rounds == _ROUNDS:
                break
            await asyncio.to_thread(_empty, self._directory, ARTIFACTS)
        named_there: set[str] = set()
        async with reading(driver := open_driver(copy)):
            jobs = sum((await driver.info()).jobs.values())
            async for _, listed in artifacts_of(driver):
                named_there.update(one.location for one in listed)
        await self._target.remove(list(self._copied - named_there))
        problems = [self._problem(*one) for one in missing if one[0] not in deleted]
        problems += [problem for location, problem in self._damaged.items() if location in named_there]
        return BackedUp(jobs, len(self._copied & named_there), tuple(problems))

    def _problem(self, job_id: UUID, artifact: Artifact) -> str:
        if self._source is None:
            return (
                f"job {job_id}: {artifact.name!r} was not copied: name the directory of the artifacts with --artifacts"
            )
        return f"job {job_id}: {artifact.name!r}: its file {self._source.description}/{artifact.location} is missing"

    async def _copy_files(self, copy: str) -> list[_Named]:
        """Copy the files that a copy of the storage names, newest first, and return those that do not exist."""
        missing: list[_Named] = []
        batch: list[_Named] = []
        async with reading(driver := open_driver(copy)):
            total = sum((await driver.info()).jobs.values())
            done = 0
            async for job_id, listed in artifacts_of(driver):
                batch += [(job_id, one) for one in listed if one.location not in self._copied]
                done += 1
                if len(batch) >= _COPIED_AT_ONCE or done == total:
                    missing += await self._copy(batch)
                    batch = []
                self._progress(done, total)
        return missing

    async def _copy(self, files: Sequence[_Named]) -> list[_Named]:
        """Copy some files, and return those that do not exist."""
        source, target = self._source, self._target
        missing: list[_Named] = []
        if source is not None and isinstance(source.store, DirectoryStore) and isinstance(target.store, DirectoryStore):
            sizes = await target.store.share(source.store, [one.location for _, one in files])
            for job_id, one in files:
                size = sizes.get(one.location)
                if size is None:
                    missing.append((job_id, one))
                elif size != one.size:
                    file = f"{source.description}/{one.location}"
                    problem = f"job {job_id}: {one.name!r}: its file {file} has {size} bytes, not {one.size}"
                    self._damaged[one.location] = problem
        else:
            for job_id, one in files:
                try:
                    await copy_artifact(source, target, one)
                except ArtifactsElsewhere:
                    missing.append((job_id, one))
        self._copied |= {one.location for _, one in files} - {one.location for _, one in missing}
        return missing


async def _delete(copy: str, job_ids: Collection[UUID]) -> set[UUID]:
    """Delete jobs from a copy, and return those that it does not have any more: a job that has not ended stays."""
    ordered = list(job_ids)
    async with started(driver := open_driver(copy), create=False):
        answers = (await driver.delete(ordered)).items
    return {job_id for job_id, answer in zip(ordered, answers, strict=True) if not isinstance(answer, ComposerdError)}


@asynccontextmanager
async def _unfinished(directory: Path, artifacts: str | None) -> AsyncIterator[Path]:
    """Provide an empty directory beside the one of the backup, and remove it if the block fails.

    It stays if the command is interrupted, because a thread may still be copying to it.
    """
    path = directory.with_name(directory.name + UNFINISHED)
    descriptor = await asyncio.to_thread(_begin, path, directory, artifacts)
    try:
        yield path
    except Exception:
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def _begin(path: Path, directory: Path, artifacts: str | None) -> int:
    """Make the directory for an unfinished backup, or take over what an interrupted one has left, and lock it."""
    if directory.is_symlink() or directory.is_mount() or (directory.exists() and not directory.is_dir()):
        raise BackupRefused(f"{directory} is a link, a mount point or a file: name a directory that does not exist")
    if directory.exists() and any(directory.iterdir()):
        raise BackupRefused(f"{directory} is not empty: name a directory that does not exist")
    if artifacts is not None and directory.resolve().is_relative_to(Path(artifacts).resolve()):
        raise BackupRefused(f"{directory} is in the directory of the artifacts, where a server would remove it")
    make_directory(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _empty(path)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise BackupRefused(f"another backup is being written to {path}: wait for it") from exc
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _empty(directory: Path, kept: str | None = None) -> None:
    """Remove everything in a directory but what has the name `kept`."""
    for one in directory.iterdir():
        if one.name == kept:
            continue
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()


def _publish(path: Path, directory: Path) -> None:
    """Bring a complete backup to stable storage, and give it its name."""
    sync_file_system(path)
    path.rename(directory)
    sync_directory(directory.parent)
