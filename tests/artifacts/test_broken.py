"""The kit for artifact stores is tested itself: each of these stores breaks one promise, and the named test finds that out."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from composerd.artifacts import Writer, directory
from composerd.artifacts.directory import DirectoryStore
from composerd.errors import ArtifactNotFound, ComposerdError, Unavailable
from composerd.testing.kit import ArtifactStoreKit

S = TypeVar("S", bound=type[DirectoryStore])

BROKEN: list[tuple[type[DirectoryStore], str]] = []


def caught_by(*tests: str) -> Callable[[S], S]:
    """Each of these tests finds a store out."""

    def note(cls: S) -> S:
        BROKEN.extend((cls, test) for test in tests)
        return cls

    return note


class _Changed(directory._File):
    """A writer of which a test changes something."""

    def __init__(self, store: DirectoryStore, place: str, right: directory._File) -> None:
        super().__init__(right._root, place, right._file)
        self.path = store.root / place


class _Changing(DirectoryStore):
    Changed: type[_Changed] = _Changed

    async def create(self, place: str) -> Writer:
        right = await super().create(place)
        assert isinstance(right, directory._File)
        return self.Changed(self, place, right)


@caught_by("test_unseen_before_its_commit")
class SeenAtOnce(_Changing):
    """What was written can be read before its commit."""

    class Changed(_Changed):
        async def write(self, part: bytes) -> None:
            await super().write(part)
            if not self.path.exists():
                self.path.hardlink_to(directory._part(self.path))


@caught_by("test_aborted")
class AbortForgets(_Changing):
    """An abort leaves what was written."""

    class Changed(_Changed):
        async def abort(self) -> None:
            self._file.close()


@caught_by("test_aborted")
class AbortCommits(_Changing):
    """An abort after a commit that was canceled leaves what that did."""

    class Changed(_Changed):
        begun = False

        async def commit(self) -> None:
            self.begun = True
            await asyncio.shield(super().commit())

        async def abort(self) -> None:
            if not self.begun:
                await super().abort()


@caught_by("test_what_was_written")
class NothingIsNothing(_Changing):
    """An empty artifact is not there."""

    class Changed(_Changed):
        async def commit(self) -> None:
            await super().commit()
            if not self.path.stat().st_size:
                self.path.unlink()


@caught_by("test_what_was_written")
class AllAtOnce(DirectoryStore):
    """It is read in one part, whatever its size."""

    async def read(self, place: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        yield b"".join([part async for part in super().read(place, start, stop)])


@caught_by("test_parts_of_it")
class WholeParts(DirectoryStore):
    """A part is read to its end, though less was asked for."""

    async def read(self, place: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        stop = min(-(-stop // 1024) * 1024, (await self.size(place)) or stop)
        async for part in super().read(place, start, stop):
            yield part


@caught_by("test_nothing_there")
class DoesNotSay(DirectoryStore):
    """Nothing being there is a failure like another."""

    async def read(self, place: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        try:
            async for part in super().read(place, start, stop):
                yield part
        except ArtifactNotFound as exc:
            raise Unavailable("something is wrong") from exc


@caught_by("test_nothing_there", "test_removed")
class RemovesOnce(DirectoryStore):
    """What is not there cannot be removed."""

    async def remove(self, places: Sequence[str]) -> None:
        for place in places:
            if await self.size(place) is None:
                raise Unavailable("nothing is there")
        await super().remove(places)


@caught_by("test_removed")
class RemovesOne(DirectoryStore):
    """Of several places only the first is removed."""

    async def remove(self, places: Sequence[str]) -> None:
        await super().remove(places[:1])


@caught_by("test_listed")
class LoosePrefix(DirectoryStore):
    """A prefix is taken without its slash."""

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        async for places in super().list(""):
            yield [place for place in places if place.startswith(prefix.rstrip("/"))]


@caught_by("test_listed")
class ListsTwice(DirectoryStore):
    """The last of each page is the first of the next."""

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        async for places in super().list(prefix):
            yield places
            yield places[-1:]


@caught_by("test_listed_in_full")
class FirstPage(DirectoryStore):
    """Only the first page is listed."""

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        async for places in super().list(prefix):
            yield places
            return


@caught_by("test_listed_in_full")
class ByNumber(DirectoryStore):
    """The next page begins at so many that there were, whatever was removed meanwhile."""

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        begin = 0
        while places := sorted([place async for some in super().list(prefix) for place in some])[begin : begin + 100]:
            yield places
            begin += 100


@caught_by("test_replaced")
class KeepsTheFirst(_Changing):
    """What is there already stays."""

    class Changed(_Changed):
        async def commit(self) -> None:
            if not self.path.exists():
                await super().commit()
            self._file.close()


@caught_by("test_replaced")
class ReplacesEarly(DirectoryStore):
    """What is there already goes when another copy begins."""

    async def create(self, place: str) -> Writer:
        await self.remove([place])
        return await super().create(place)


@caught_by("test_opened_again")
class Forgets(DirectoryStore):
    """What was committed does not live longer than the store."""

    async def close(self) -> None:
        async for places in self.list(""):
            await self.remove(places)


@caught_by("test_opened_again")
class ClosesOnce(DirectoryStore):
    """It cannot be closed again."""

    closed = False

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


@caught_by("test_abandoned")
class NotToBeRemoved(DirectoryStore):
    """What was half written is listed, and cannot be removed."""

    async def remove(self, places: Sequence[str]) -> None:
        await super().remove([place for place in places if not place.endswith(".part")])


@caught_by("test_abandoned", "test_aborted")
class CrashCommits(_Changing):
    """What a crash left half written is found, and taken for whole."""

    async def start(self, *, create: bool) -> None:
        await super().start(create=create)
        for part in list(self.root.rglob("*.part")):
            part.replace(part.with_suffix(""))

    class Changed(_Changed):
        async def abort(self) -> None:
            self._file.close()


@caught_by("test_two_servers")
class Remembers(DirectoryStore):
    """What is there is remembered from the first look on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._sizes: dict[str, int | None] = {}

    async def size(self, place: str) -> int | None:
        if place not in self._sizes:
            self._sizes[place] = await super().size(place)
        return self._sizes[place]

    async def remove(self, places: Sequence[str]) -> None:
        await super().remove(places)
        for place in places:
            await self.size(place)


@caught_by("test_many_at_once")
class OneFile(_Changing):
    """All that is half written is in one file."""

    class Changed(_Changed):
        async def write(self, part: bytes) -> None:
            with (self._root.parent / "half").open("ab") as file:
                file.write(part)
            await super().write(b"")

        async def commit(self) -> None:
            half = self._root.parent / "half"
            directory._part(self.path).write_bytes(half.read_bytes())
            half.unlink()
            await super().commit()


@caught_by("test_removed_while_it_is_read")
class CutShort(DirectoryStore):
    """What is removed while it is read ends there."""

    async def read(self, place: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        async for part in super().read(place, start, stop):
            yield part
            if await self.size(place) is None:
                return


@caught_by("test_check")
class Refuses(DirectoryStore):
    """It is open, and takes nothing."""

    async def check(self) -> None:
        raise Unavailable("not today")


@pytest.mark.parametrize(("broken", "test"), BROKEN, ids=[f"{store.__name__}-{test[5:]}" for store, test in BROKEN])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_is_caught(broken: type[DirectoryStore], test: str, tmp_path: Path) -> None:
    """A store that breaks a promise fails the test that holds it."""

    def again() -> DirectoryStore:
        return broken(tmp_path / "files")

    needs = {"again": again} if test in ("test_opened_again", "test_abandoned", "test_two_servers") else {}
    with pytest.raises((AssertionError, ComposerdError, ExceptionGroup)):
        getattr(ArtifactStoreKit, test)(ArtifactStoreKit(), again(), **needs)
    gc.collect()  # what it left open is its own trouble


def test_every_test_is_needed() -> None:
    """Each test of the kit has a store that only it, or it among others, finds out."""
    tests = {name for name in vars(ArtifactStoreKit) if name.startswith("test_")}
    assert {test for _, test in BROKEN} == tests
