"""The built-in artifact store: files below one directory, which several servers may share.

A file is written under its name with `.part` appended, and renamed once it is on stable storage.
"""

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from io import RawIOBase
from pathlib import Path
from typing import ClassVar, ParamSpec, Self, TypeVar

import aiofiles

from composerd.artifacts.contract import ArtifactStore, Writer
from composerd.driver.url import path_of
from composerd.errors import ArtifactNotFound, StorageFull, Unavailable

READ_AT_ONCE = 256 * 1024
"""Maximum number of bytes that are read from a file in one call."""

LISTED_AT_ONCE = 100
"""Number of the root's directories that are listed in one call."""

_TRIES = 10
"""Maximum number of attempts to create a file, while other servers remove its empty directory."""

P = ParamSpec("P")
R = TypeVar("R")


class DirectoryStore(ArtifactStore):
    """An artifact store that keeps each artifact as a file. Its URL is `file:/path`, or just the path.

    The file system must keep what was fsynced. Several servers may use one directory if it shows a file to all of them
    once that was closed, as NFS does.
    """

    contract: ClassVar[str] = "1.0"
    name: ClassVar[str] = "file"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls(path_of(url, "directory"))

    async def start(self, *, create: bool) -> None:
        if create:
            await _disk(lambda: self.root.mkdir(mode=0o700, parents=True, exist_ok=True))

    async def close(self) -> None:
        pass

    async def check(self) -> None:
        await _disk(self._check)

    def _check(self) -> None:
        self.root.stat()
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EROFS, "directory is not writable", str(self.root))

    async def create(self, location: str) -> Writer:
        return _File(self.root, location, await _disk(self._create, self.root / location))

    def _create(self, path: Path) -> RawIOBase:
        for _ in range(_TRIES - 1):
            try:
                return self._create_once(path)
            except FileNotFoundError:  # another server removed a directory that was still empty
                self.root.stat()  # raises if the root itself is gone
        return self._create_once(path)

    def _create_once(self, path: Path) -> RawIOBase:
        for parent in reversed(path.relative_to(self.root).parents[:-1]):
            directory = self.root / parent
            try:
                directory.mkdir(mode=0o700)
            except FileExistsError:
                continue
            sync_directory(directory.parent)
        return _part(path).open("wb", buffering=0)

    async def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        try:
            async with aiofiles.open(self.root / location, "rb") as file:
                await file.seek(start)
                left = stop - start
                while left > 0:
                    part = await file.read(min(READ_AT_ONCE, left))
                    if not part:
                        raise Unavailable(f"artifact file {self.root / location} is truncated")
                    left -= len(part)
                    yield part
        except FileNotFoundError as exc:
            raise ArtifactNotFound from exc
        except OSError as exc:
            raise Unavailable(f"cannot access artifacts: {exc}") from exc

    async def size(self, location: str) -> int | None:
        try:
            return await _disk(lambda: (self.root / location).stat().st_size)
        except _Missing:
            return None

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        if prefix:
            found = await _disk(_files_below, self.root, [prefix.rstrip("/")])
            if found:
                yield found
            return
        names = await _disk(os.listdir, self.root)
        for begin in range(0, len(names), LISTED_AT_ONCE):
            yield await _disk(_files_below, self.root, names[begin : begin + LISTED_AT_ONCE])

    async def remove(self, locations: Sequence[str]) -> None:
        await _disk(_remove, self.root, locations)


class _File(Writer):
    """Writes one file."""

    def __init__(self, root: Path, location: str, file: RawIOBase) -> None:
        self._root = root
        self._location = location
        self._file = file

    async def write(self, part: bytes) -> None:
        await _disk(self._write, part)

    def _write(self, part: bytes) -> None:
        view = memoryview(part)
        while view:
            view = view[self._file.write(view) :]

    async def commit(self) -> None:
        await _disk(self._commit)

    def _commit(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._root / self._location
        _part(path).replace(path)
        sync_directory(path.parent)

    async def abort(self) -> None:
        await _disk(self._abort)

    def _abort(self) -> None:
        self._file.close()
        _remove(self._root, [f"{self._location}.part", self._location])


class _Missing(Unavailable):
    """A file does not exist."""


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _files_below(root: Path, names: Sequence[str]) -> list[str]:
    """Return the paths, relative to the root, of all files in these directories and their subdirectories."""
    return [
        str(Path(directory, file).relative_to(root))
        for name in names
        for directory, _, files in os.walk(root / name)
        for file in files
    ]


def _remove(root: Path, locations: Sequence[str]) -> None:
    """Remove files, and the directories that become empty by that."""
    for location in locations:
        (root / location).unlink(missing_ok=True)
        for parent in Path(location).parents[:-1]:
            try:
                (root / parent).rmdir()
            except OSError:
                break


def sync_directory(directory: Path) -> None:
    """Bring a directory's entries to stable storage. Blocks."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _disk(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run blocking file work in a thread, and return its result.

    Raises `StorageFull` if the disk or the quota is full, and `Unavailable` for every other `OSError`.
    """
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("no space left for artifacts") from exc
        raise (_Missing if isinstance(exc, FileNotFoundError) else Unavailable)(
            f"cannot access artifacts: {exc}"
        ) from exc
