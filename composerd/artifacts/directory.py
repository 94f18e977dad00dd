"""The artifact store that is built in: files below one directory, which servers may share.

A file is written beside its place, under its name and `.part`, and renamed when it is on stable storage.
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
"""In bytes."""

LISTED_AT_ONCE = 100
"""How many of the root's directories are looked into at a time."""

_TRIES = 10

P = ParamSpec("P")
R = TypeVar("R")


class DirectoryStore(ArtifactStore):
    """Artifacts as files: `file:/path`, or just the path."""

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
            raise PermissionError(errno.EROFS, "not to be written to", str(self.root))

    async def create(self, place: str) -> Writer:
        return _File(self.root, place, await _disk(self._create, self.root / place))

    def _create(self, path: Path) -> RawIOBase:
        for _ in range(_TRIES - 1):
            try:
                return self._create_once(path)
            except FileNotFoundError:  # somebody took a directory for one that was left empty
                self.root.stat()  # not if it is all of it that has gone
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

    async def read(self, place: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        try:
            async with aiofiles.open(self.root / place, "rb") as file:
                await file.seek(start)
                left = stop - start
                while left > 0:
                    part = await file.read(min(READ_AT_ONCE, left))
                    if not part:
                        raise Unavailable(f"artifacts: {self.root / place} is shorter than it was")
                    left -= len(part)
                    yield part
        except FileNotFoundError as exc:
            raise ArtifactNotFound from exc
        except OSError as exc:
            raise Unavailable(f"artifacts: {exc}") from exc

    async def size(self, place: str) -> int | None:
        try:
            return await _disk(lambda: (self.root / place).stat().st_size)
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

    async def remove(self, places: Sequence[str]) -> None:
        await _disk(_remove, self.root, places)


class _File(Writer):
    """A file that is being written."""

    def __init__(self, root: Path, place: str, file: RawIOBase) -> None:
        self._root = root
        self._place = place
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
        path = self._root / self._place
        _part(path).replace(path)
        sync_directory(path.parent)

    async def abort(self) -> None:
        await _disk(self._abort)

    def _abort(self) -> None:
        self._file.close()
        _remove(self._root, [f"{self._place}.part", self._place])


class _Missing(Unavailable):
    """A file is not there."""


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _files_below(root: Path, names: Sequence[str]) -> list[str]:
    """The files in these directories of the root, however deep."""
    return [
        str(Path(directory, file).relative_to(root))
        for name in names
        for directory, _, files in os.walk(root / name)
        for file in files
    ]


def _remove(root: Path, places: Sequence[str]) -> None:
    """Remove files, and the directories that they leave empty."""
    for place in places:
        (root / place).unlink(missing_ok=True)
        for parent in Path(place).parents[:-1]:
            try:
                (root / parent).rmdir()
            except OSError:
                break


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
        raise (_Missing if isinstance(exc, FileNotFoundError) else Unavailable)(f"artifacts: {exc}") from exc
