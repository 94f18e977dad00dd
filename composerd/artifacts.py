"""Attempts' files: streamed in and out of a directory with their digests, and swept when they belong to nobody.

A file is written once, under a name of its own (`JOB/ATTEMPT/UPLOAD`), and never moved: what makes it the attempt's,
and later the job's, is the driver's record of it. So two uploads of one name cannot mix, and no name that a worker
chose reaches the file system.
"""

import asyncio
import errno
import hashlib
import logging
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from io import RawIOBase
from pathlib import Path
from typing import ParamSpec, Self, TypeVar
from uuid import UUID, uuid4

import aiofiles

from composerd.driver import Driver
from composerd.errors import ArtifactTooLarge, ComposerdError, StorageFull, Unavailable
from composerd.models import Artifact, Job, JobState, News

log = logging.getLogger(__name__)

PART = 256 * 1024
"""How much is written or read at a time, in bytes."""

_TRIES = 10
_SWEPT_AT_ONCE = 100
_SWEPT_AGAIN = 10.0

P = ParamSpec("P")
R = TypeVar("R")


class Upload:
    """One file on its way in; an async context manager that leaves nothing behind unless `complete` was called."""

    def __init__(self, store: "ArtifactStore", job_id: UUID, attempt: int, limit: int) -> None:
        self.place = f"{job_id}/{attempt}/{uuid4()}"
        self.size = 0
        self._path = store.root / self.place
        self._limit = limit
        self._digest = hashlib.sha256()
        self._file: RawIOBase | None = None
        self._parts: list[bytes] = []
        self._held = 0
        self._kept = False

    async def __aenter__(self) -> Self:
        self._file = await _disk(self._create)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if not self._kept:
            await asyncio.shield(_disk(self._abandon))

    async def write(self, part: bytes) -> None:
        """Add to the file. Raises `ArtifactTooLarge`, `StorageFull`."""
        self.size += len(part)
        if self.size > self._limit:
            raise ArtifactTooLarge(limit=self._limit)
        self._parts.append(part)
        self._held += len(part)
        if self._held >= PART:
            await self._flush()

    async def complete(self, name: str) -> Artifact:
        """Bring the file to stable storage; from here on it is the caller's to attach or discard."""
        await self._flush()
        await _disk(self._sync)
        self._kept = True
        return Artifact(name, self.size, self.sha256, self.place)

    @property
    def sha256(self) -> str:
        """The digest of what was written, hexadecimal."""
        return self._digest.hexdigest()

    async def _flush(self) -> None:
        parts, self._parts, self._held = self._parts, [], 0
        if parts:
            await _disk(self._append, parts)

    def _create(self) -> RawIOBase:
        for _ in range(_TRIES - 1):
            try:
                return self._create_once()
            except FileNotFoundError:  # the sweeper of another server took a directory for one that was left empty
                continue
        return self._create_once()

    def _create_once(self) -> RawIOBase:
        for parent in (self._path.parent.parent, self._path.parent):
            try:
                parent.mkdir(mode=0o700)
            except FileExistsError:
                continue
            sync_directory(parent.parent)
        return self._path.open("xb", buffering=0)

    def _append(self, parts: list[bytes]) -> None:
        assert self._file is not None
        for part in parts:
            self._digest.update(part)
            view = memoryview(part)
            while view:
                view = view[self._file.write(view) :]

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._file.close()
        sync_directory(self._path.parent)

    def _abandon(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)


class ArtifactStore:
    """The files of all jobs, below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uploading: set[UUID] = set()
        """Jobs with files that are not over; the sweeper takes them out."""

    async def start(self) -> None:
        """Make the directory. Raises `Unavailable` or `StorageFull` if it cannot be had."""
        await _disk(lambda: self.root.mkdir(mode=0o700, parents=True, exist_ok=True))

    async def check(self) -> None:
        """Return if files are taken. Raises `Unavailable`: the directory has gone, or is read-only."""
        await _disk(self._check)

    def _check(self) -> None:
        self.root.stat()
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EROFS, "not to be written to", str(self.root))

    def upload(self, job_id: UUID, attempt: int, limit: int) -> Upload:
        """Begin a file of at most `limit` bytes."""
        self.uploading.add(job_id)
        return Upload(self, job_id, attempt, limit)

    async def read(self, place: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a file from `start` up to `stop`, in parts. Raises `FileNotFoundError`, `OSError`."""
        async with aiofiles.open(self.root / place, "rb") as file:
            await file.seek(start)
            left = stop - start
            while left > 0:
                part = await file.read(min(PART, left))
                if not part:
                    raise OSError(errno.EIO, "an artifact's file is shorter than it was")
                left -= len(part)
                yield part

    async def discard(self, place: str) -> None:
        """Remove a file."""
        await _disk(lambda: (self.root / place).unlink(missing_ok=True))

    async def forget(self, job_id: UUID) -> None:
        """Remove all files of a job."""
        await _disk(lambda: shutil.rmtree(self.root / str(job_id), ignore_errors=True))

    async def tidy(self, job: Job, keep: Iterable[str]) -> None:
        """Remove the files of a job's attempts that are over, but those in `keep`; an attempt that runs is left alone."""
        over = job.attempt - 1 if job.state is JobState.RUNNING else job.attempt
        await _disk(self._tidy, self.root / str(job.id), over, set(keep))

    def _tidy(self, directory: Path, over: int, keep: set[str]) -> None:
        if not directory.is_dir():
            return
        for attempt in directory.iterdir():
            if attempt.name.isdigit() and int(attempt.name) > over:
                continue
            for file in attempt.iterdir():
                if f"{directory.name}/{attempt.name}/{file.name}" not in keep:
                    file.unlink(missing_ok=True)
            _remove_if_empty(attempt)
        _remove_if_empty(directory)

    async def jobs(self) -> AsyncIterator[list[UUID]]:
        """The jobs that have files, some at a time."""
        names = await _disk(lambda: [entry.name for entry in os.scandir(self.root)])
        for begin in range(0, len(names), _SWEPT_AT_ONCE):
            yield [UUID(name) for name in names[begin : begin + _SWEPT_AT_ONCE] if _is_uuid(name)]


class Sweeper:
    """Removes files when what they belonged to is over: at once for what happens now, and once after a start for what a crash left."""

    def __init__(self, store: ArtifactStore, driver: Driver) -> None:
        self._store = store
        self._driver = driver
        self._due: asyncio.Queue[UUID] = asyncio.Queue()

    def heard(self, news: News) -> None:
        """Attempts have ended: what they did not publish is over."""
        if self._store.uploading:
            for job_id in (*news.ended, *news.returned):
                if job_id in self._store.uploading:
                    self._store.uploading.discard(job_id)
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
                await self._sweep(job_ids)
            except (ComposerdError, OSError) as exc:
                log.warning("%d jobs' artifacts were not swept; the next start does it: %s", len(job_ids), exc)

    async def _sweep_all(self) -> None:
        while True:
            try:
                async for job_ids in self._store.jobs():
                    await self._sweep(job_ids)
            except Unavailable as exc:
                log.warning("the artifacts are swept later: %s", exc)
                await asyncio.sleep(_SWEPT_AGAIN)
            except (ComposerdError, OSError) as exc:
                log.warning("the artifacts were not swept: %s", exc)
                return
            else:
                return

    async def _sweep(self, job_ids: Sequence[UUID]) -> None:
        self._store.uploading.update(job_ids)  # before the look, so that an end right after it is heard
        jobs = await self._driver.get(job_ids)
        artifacts = await self._driver.artifacts(job_ids)
        for job_id, job, attached in zip(job_ids, jobs, artifacts, strict=True):
            if job is None or job.state.ended:
                self._store.uploading.discard(job_id)
            if job is None:
                await self._store.forget(job_id)
            else:
                await self._store.tidy(job, (artifact.place for artifact in attached) if job.state.ended else ())


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to stable storage. Blocking."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _disk(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do blocking work on files in a thread; what the disk refuses becomes our error."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("no room for artifacts") from exc
        raise Unavailable(f"artifacts: {exc}") from exc
