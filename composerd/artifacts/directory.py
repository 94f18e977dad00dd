"""The built-in artifact store: files below one directory, which several servers may share.

A file is written under its name with `.part` appended, and renamed once it is on stable storage. The directory is the
one that was there at the start: if its path names another one later, the store takes no more files.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar, ParamSpec, Self, TypeVar

import aiofiles

from composerd.artifacts.contract import ArtifactStore, Writer
from composerd.directory import Directory, make_directory
from composerd.driver.url import path_of
from composerd.errors import ArtifactNotFound, StorageFull, StorageUnusable, Unavailable, WritesStopped
from composerd.file_errors import translated
from composerd.free_space import DiskSpace
from composerd.ownership import NotTrusted

READ_AT_ONCE = 256 * 1024
"""Maximum number of bytes that are read from a file in one call."""

ROOM = 64 * 1024
"""Number of bytes that have to find room on the disk for uploads to be accepted."""

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

    contract: ClassVar[str] = "1.1"
    name: ClassVar[str] = "file"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._directory = Directory(self.root, unfinished=".part")
        self._refused = False
        """True from a file that found no room until there was some."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        return cls(path_of(url, "directory"))

    async def start(self, *, create: bool) -> None:
        await _disk(self._start, create)

    def _start(self, create: bool) -> None:
        if create:
            make_directory(self.root)
        if self.root.exists():
            try:
                self._directory.open()
            except NotTrusted as exc:
                raise StorageUnusable(exc.sentence) from exc

    async def close(self) -> None:
        self._directory.close()

    async def check(self) -> None:
        await _disk(self._check)

    def _check(self) -> None:
        _check_place(self._opened())
        if not self._directory.is_writable():
            raise PermissionError(errno.EROFS, "directory is not writable", str(self.root))
        if self._refused or self._directory.space().free < ROOM:
            if not self._directory.has_room(ROOM):
                raise StorageFull("the disk of the artifacts is full")
            self._refused = False

    async def free_space(self) -> DiskSpace | None:
        return await _disk(lambda: self._opened().space())

    def _opened(self) -> Directory:
        """Return the directory, opened now if it was not there at the start."""
        self._directory.open()
        return self._directory

    async def create(self, location: str) -> Writer:
        with self._noting_refusals():
            return _File(self._directory, location, await _disk(self._create, location), self._noting_refusals)

    @contextlib.contextmanager
    def _noting_refusals(self) -> Iterator[None]:
        """Remember if something in the block finds no room."""
        try:
            yield
        except StorageFull:
            self._refused = True
            raise

    def _create(self, location: str) -> BinaryIO:
        _check_place(self._opened())
        for _ in range(_TRIES - 1):
            try:
                return self._create_once(location)
            except FileNotFoundError:  # another server removed a directory that was still empty
                _check_place(self._directory)
        return self._create_once(location)

    def _create_once(self, location: str) -> BinaryIO:
        for parent in reversed(Path(location).parents[:-1]):
            self._directory.make_directory(str(parent))
        return self._directory.create(location)

    async def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        try:
            async with aiofiles.open(location, "rb", opener=self._opened().descriptor_of) as file:
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
            raise translated(exc, "cannot access artifacts") from exc

    async def share(self, source: "DirectoryStore", locations: Sequence[str]) -> dict[str, int]:
        """Have files of another directory here too, as links or copies, and return the sizes of those that exist.

        They are on stable storage once the file system was synced.
        """
        return await _disk(self._share, source, locations)

    def _share(self, source: "DirectoryStore", locations: Sequence[str]) -> dict[str, int]:
        sizes = {}
        for location in locations:
            for parent in reversed(Path(location).parents[:-1]):
                self._directory.make_directory(str(parent), sync=False)
            try:
                self._directory.share(source._opened(), location)  # noqa: SLF001  # another one of this class
            except FileNotFoundError:
                continue
            sizes[location] = self._directory.size(location)
        return sizes

    async def size(self, location: str) -> int | None:
        try:
            return await _disk(lambda: self._opened().size(location))
        except _Missing:
            return None

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        if prefix:
            found = await _disk(self._files_below, [prefix.rstrip("/")])
            if found:
                yield found
            return
        names = await _disk(lambda: self._opened().names())
        for begin in range(0, len(names), LISTED_AT_ONCE):
            yield await _disk(self._files_below, names[begin : begin + LISTED_AT_ONCE])

    def _files_below(self, names: Sequence[str]) -> Sequence[str]:
        return [file for name in names for file in self._opened().files_below(name)]

    async def remove(self, locations: Sequence[str]) -> None:
        await _disk(lambda: _remove(self._opened(), locations))


class _File(Writer):
    """Writes one file."""

    def __init__(
        self,
        directory: Directory,
        location: str,
        file: BinaryIO,
        noting_refusals: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._directory = directory
        self._location = location
        self._file = file
        self._noting_refusals = noting_refusals

    async def write(self, part: bytes) -> None:
        with self._noting_refusals():
            await _disk(self._file.write, part)

    async def commit(self) -> None:
        with self._noting_refusals():
            await _disk(self._commit)

    def _commit(self) -> None:
        with self._file:
            self._directory.publish(self._file, self._location)
        _check_place(self._directory)

    async def abort(self) -> None:
        await _disk(self._abort)

    def _abort(self) -> None:
        with contextlib.suppress(OSError):  # what is left in its buffer may find no room
            self._file.close()
        _remove(self._directory, [self._location + self._directory.unfinished, self._location])


class _Missing(Unavailable):
    """A file does not exist."""


def _check_place(directory: Directory) -> None:
    """Raise `WritesStopped` if files in the directory will not be found at its path."""
    if not directory.is_at_its_path():
        raise WritesStopped(
            "the directory of artifacts was removed or moved, or another one or another file system is in its place: "
            "put it back, or restart composerd"
        )


def _remove(directory: Directory, locations: Sequence[str]) -> None:
    """Remove files, and the directories that become empty by that."""
    for location in locations:
        directory.remove(location)
        for parent in Path(location).parents[:-1]:
            try:
                directory.remove_directory(str(parent))
            except OSError:
                break


async def _disk(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run blocking file work in a thread, and return its result.

    Raises the error of composerd for each `OSError`.
    """
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except FileNotFoundError as exc:
        raise _Missing(f"cannot access artifacts: {exc}") from exc
    except OSError as exc:
        raise translated(exc, "cannot access artifacts") from exc
