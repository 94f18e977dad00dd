"""Tests of the kit for artifact stores: each store here breaks one promise, and the named tests have to fail."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from composerd.artifacts import DiskSpace, Writer, directory
from composerd.artifacts.directory import DirectoryStore
from composerd.errors import ArtifactNotFound, ComposerdError, Unavailable
from composerd.testing.kit import ArtifactStoreKit

S = TypeVar("S", bound=type[DirectoryStore])

BROKEN: list[tuple[type[DirectoryStore], str]] = []


def caught_by(*tests: str) -> Callable[[S], S]:
    """Register a broken store, and the tests that have to fail with it."""

    def note(cls: S) -> S:
        BROKEN.extend((cls, test) for test in tests)
        return cls

    return note


class _Changed(directory._File):
    """A writer whose subclasses change one method."""

    def __init__(self, store: DirectoryStore, location: str, right: directory._File) -> None:
        super().__init__(right._directory, location, right._file, right._noting_refusals)
        self.path = store.root / location
        self.part = store.root / f"{location}.part"


class _Changing(DirectoryStore):
    Changed: type[_Changed] = _Changed

    async def create(self, location: str) -> Writer:
        right = await super().create(location)
        assert isinstance(right, directory._File)
        return self.Changed(self, location, right)


@caught_by("test_unseen_before_its_commit")
class VisibleBeforeCommit(_Changing):
    """An artifact can be read before its commit."""

    class Changed(_Changed):
        async def write(self, part: bytes) -> None:
            await super().write(part)
            if not self.path.exists():
                self.path.hardlink_to(self.part)


@caught_by("test_aborted")
class AbortLeavesFile(_Changing):
    """An abort leaves the file behind."""

    class Changed(_Changed):
        async def abort(self) -> None:
            self._file.close()


@caught_by("test_aborted")
class AbortCommits(_Changing):
    """An abort after a canceled commit leaves the committed file behind."""

    class Changed(_Changed):
        begun = False

        async def commit(self) -> None:
            self.begun = True
            await asyncio.shield(super().commit())

        async def abort(self) -> None:
            if not self.begun:
                await super().abort()


@caught_by("test_what_was_written")
class LosesEmptyArtifacts(_Changing):
    """An empty artifact does not exist after its commit."""

    class Changed(_Changed):
        async def commit(self) -> None:
            await super().commit()
            if not self.path.stat().st_size:
                self.path.unlink()


@caught_by("test_what_was_written")
class ReadsInOnePart(DirectoryStore):
    """An artifact is read in one part, even if it is larger than 1 MiB."""

    async def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        yield b"".join([part async for part in super().read(location, start, stop)])


@caught_by("test_parts_of_it")
class ReadsTooMuch(DirectoryStore):
    """More bytes are returned than were requested."""

    async def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        stop = min(-(-stop // 1024) * 1024, (await self.size(location)) or stop)
        async for part in super().read(location, start, stop):
            yield part


@caught_by("test_nothing_there")
class HidesMissingArtifacts(DirectoryStore):
    """Reading a missing artifact raises `Unavailable`."""

    async def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        try:
            async for part in super().read(location, start, stop):
                yield part
        except ArtifactNotFound as exc:
            raise Unavailable("something is wrong") from exc


@caught_by("test_nothing_there", "test_removed")
class RemovesOnce(DirectoryStore):
    """Removing a missing artifact raises an error."""

    async def remove(self, locations: Sequence[str]) -> None:
        for location in locations:
            if await self.size(location) is None:
                raise Unavailable("nothing is there")
        await super().remove(locations)


@caught_by("test_removed")
class RemovesOne(DirectoryStore):
    """Only the first of several locations is removed."""

    async def remove(self, locations: Sequence[str]) -> None:
        await super().remove(locations[:1])


@caught_by("test_listed")
class IgnoresSlash(DirectoryStore):
    """The slash at the end of a prefix is ignored."""

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        async for locations in super().list(""):
            yield [location for location in locations if location.startswith(prefix.rstrip("/"))]


@caught_by("test_listed")
class ListsTwice(DirectoryStore):
    """The last location of each page is listed again on the next page."""

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        async for locations in super().list(prefix):
            yield locations
            yield locations[-1:]


@caught_by("test_listed_in_full")
class ListsFirstPage(DirectoryStore):
    """Only the first page is listed."""

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        async for locations in super().list(prefix):
            yield locations
            return


@caught_by("test_listed_in_full")
class PagesByOffset(DirectoryStore):
    """Each page begins at an offset, so locations are skipped when others are removed meanwhile."""

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        begin = 0
        while locations := sorted([location async for some in super().list(prefix) for location in some])[
            begin : begin + 100
        ]:
            yield locations
            begin += 100


@caught_by("test_replaced")
class KeepsTheFirst(_Changing):
    """A second commit does not replace the existing artifact."""

    class Changed(_Changed):
        async def commit(self) -> None:
            if not self.path.exists():
                await super().commit()
            self._file.close()


@caught_by("test_replaced")
class ReplacesEarly(DirectoryStore):
    """The existing artifact is removed when another copy begins."""

    async def create(self, location: str) -> Writer:
        await self.remove([location])
        return await super().create(location)


@caught_by("test_opened_again")
class ForgetsArtifacts(DirectoryStore):
    """Committed artifacts are lost when the store is closed."""

    async def close(self) -> None:
        async for locations in self.list(""):
            await self.remove(locations)


@caught_by("test_opened_again")
class ClosesOnce(DirectoryStore):
    """A store cannot be closed twice."""

    closed = False

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


@caught_by("test_abandoned")
class KeepsUnfinishedUploads(DirectoryStore):
    """An unfinished upload is listed, but cannot be removed."""

    async def remove(self, locations: Sequence[str]) -> None:
        await super().remove([location for location in locations if not location.endswith(".part")])


@caught_by("test_abandoned", "test_aborted")
class CrashCommits(_Changing):
    """An upload that a crash interrupted counts as committed after the next start."""

    async def start(self, *, create: bool) -> None:
        await super().start(create=create)
        for part in list(self.root.rglob("*.part")):
            part.replace(part.with_suffix(""))

    class Changed(_Changed):
        async def abort(self) -> None:
            self._file.close()


@caught_by("test_two_servers")
class CachesSizes(DirectoryStore):
    """Sizes are cached, so changes of another server are not seen."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._sizes: dict[str, int | None] = {}

    async def size(self, location: str) -> int | None:
        if location not in self._sizes:
            self._sizes[location] = await super().size(location)
        return self._sizes[location]

    async def remove(self, locations: Sequence[str]) -> None:
        await super().remove(locations)
        for location in locations:
            await self.size(location)


@caught_by("test_many_at_once")
class MixesUploads(_Changing):
    """Unfinished uploads share one file."""

    class Changed(_Changed):
        async def write(self, part: bytes) -> None:
            with (self._directory.path.parent / "half").open("ab") as file:
                file.write(part)
            await super().write(b"")

        async def commit(self) -> None:
            half = self._directory.path.parent / "half"
            self.part.write_bytes(half.read_bytes())
            half.unlink()
            await super().commit()


@caught_by("test_removed_while_it_is_read")
class EndsReadEarly(DirectoryStore):
    """Reading ends early, without an error, if the artifact is removed meanwhile."""

    async def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        async for part in super().read(location, start, stop):
            yield part
            if await self.size(location) is None:
                return


@caught_by("test_check")
class RefusesArtifacts(DirectoryStore):
    """An open store accepts no artifacts."""

    async def check(self) -> None:
        raise Unavailable("not today")


@caught_by("test_free_space")
class SaysWhatIsUsed(DirectoryStore):
    """Free space of a file system that has no size."""

    async def free_space(self) -> DiskSpace:
        return DiskSpace(free=1024**3, size=0)


@pytest.mark.parametrize(("broken", "test"), BROKEN, ids=[f"{store.__name__}-{test[5:]}" for store, test in BROKEN])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_is_caught(broken: type[DirectoryStore], test: str, tmp_path: Path) -> None:
    """A store that breaks a promise fails the test of that promise."""

    def make_store() -> DirectoryStore:
        return broken(tmp_path / "files")

    needs = {"make_store": make_store} if test in ("test_opened_again", "test_abandoned", "test_two_servers") else {}
    with pytest.raises((AssertionError, ComposerdError, ExceptionGroup)):
        getattr(ArtifactStoreKit, test)(ArtifactStoreKit(), make_store(), **needs)
    gc.collect()  # closes files that the broken store left open


def test_every_test_is_needed() -> None:
    """For each test of the kit there is a broken store that it catches."""
    tests = {name for name in vars(ArtifactStoreKit) if name.startswith("test_")}
    assert {test for _, test in BROKEN} == tests
