"""`ArtifactStoreKit`: the conformance tests for artifact stores.

Their contract is in the docstrings of `composerd.artifacts.contract`.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest

from composerd.artifacts import ArtifactStore
from composerd.errors import ArtifactNotFound, Unavailable

LIMIT = 60.0
"""The longest that a test may take, in seconds."""

KIB = 1024
PART = 256 * KIB

A, B = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
LOCATION = f"{A}/1/aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"

MakeStore = Callable[[], ArtifactStore]


def _test(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a coroutine method a test that gets a started, empty store and runs on an event loop of its own."""

    @functools.wraps(test)
    def run(self: Any, store: ArtifactStore, **fixtures: Any) -> None:
        asyncio.run(_run(test, self, store, fixtures))

    return run


async def _run(
    test: Callable[..., Awaitable[None]], self: Any, store: ArtifactStore, fixtures: Mapping[str, Any]
) -> None:
    try:
        async with asyncio.timeout(LIMIT):
            await store.start(create=True)
            await test(self, store, **fixtures)
    finally:
        await store.close()


def content(size: int, seed: int = 0) -> bytes:
    """Return bytes that differ from one offset to the next, and from one seed to the next."""
    block = b"".join((number * 2_654_435_761 + seed).to_bytes(8, "big") for number in range(1 + min(size, PART) // 8))
    return (block * (1 + size // len(block)))[:size]


async def put(store: ArtifactStore, location: str, data: bytes) -> None:
    """Store an artifact."""
    writer = await store.create(location)
    for begin in range(0, len(data), PART):
        await writer.write(data[begin : begin + PART])
    await writer.commit()


async def read(store: ArtifactStore, location: str, start: int, stop: int) -> bytes:
    """Return a part of an artifact."""
    parts = [part async for part in store.read(location, start, stop)]
    assert all(0 < len(part) <= 1024 * KIB for part in parts), "parts have 1 byte to 1 MiB"
    return b"".join(parts)


async def listed(store: ArtifactStore, prefix: str = "") -> Sequence[str]:
    """Return the locations that are listed, sorted."""
    return sorted([location async for locations in store.list(prefix) for location in locations])


async def there(store: ArtifactStore, location: str) -> bool:
    """Return True if there is an artifact at a location. Check that all methods agree on it."""
    size = await store.size(location)
    parts = store.read(location, 0, 1)
    try:
        await anext(parts)
    except ArtifactNotFound:
        assert size is None
        return False
    finally:
        await parts.aclose()
    assert size is not None
    assert location in await listed(store)
    return True


class ArtifactStoreKit:
    """The conformance tests for an artifact store.

    Derive a class whose name begins with `Test`, and define its two fixtures:

    >>> class TestMine(ArtifactStoreKit):
    ...     @pytest.fixture
    ...     def store(self, make_store):
    ...         return make_store()
    ...
    ...     @pytest.fixture
    ...     def make_store(self, tmp_path):
    ...         return lambda: MyStore.from_url(f"mine:{tmp_path}")
    """

    @pytest.fixture
    def store(self) -> ArtifactStore:
        """Return an unopened store on a new, empty storage."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture `store`: an unopened, empty store")

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Return a function that returns another unopened store on the same storage."""
        raise NotImplementedError(
            f"{type(self).__name__} has no fixture `make_store`: a function that returns another store on the storage"
        )

    @_test
    async def test_what_was_written(self, store: ArtifactStore) -> None:
        """Artifacts of all sizes, empty ones included, come back as they were written."""
        for nth, size in enumerate((0, 1, PART - 1, PART, PART + 1, 9 * PART + 17)):
            location = f"{A}/1/{nth}"
            await put(store, location, content(size))
            assert await store.size(location) == size
            assert size == 0 or await read(store, location, 0, size) == content(size)

    @_test
    async def test_parts_of_it(self, store: ArtifactStore) -> None:
        """Any part of an artifact can be read."""
        data = content(9 * PART + 17)
        await put(store, LOCATION, data)
        edges = (0, 1, PART - 1, PART, PART + 1, 5 * PART, len(data) - 1, len(data))
        for start in edges:
            for stop in edges:
                if start < stop:
                    assert await read(store, LOCATION, start, stop) == data[start:stop]

    @_test
    async def test_nothing_there(self, store: ArtifactStore) -> None:
        """A missing artifact is reported as missing and not listed; removing it does nothing."""
        assert not await there(store, LOCATION)
        assert await listed(store) == await listed(store, f"{A}/") == []
        await store.remove([LOCATION])

    @_test
    async def test_unseen_before_its_commit(self, store: ArtifactStore) -> None:
        """Nothing of an artifact can be read before `commit`, and all of it afterwards."""
        writer = await store.create(LOCATION)
        assert not await there(store, LOCATION)
        for seed in range(3):
            await writer.write(content(PART, seed))
            assert not await there(store, LOCATION)
        await writer.commit()
        assert await read(store, LOCATION, 0, 3 * PART) == b"".join(content(PART, seed) for seed in range(3))

    @_test
    async def test_aborted(self, store: ArtifactStore) -> None:
        """An aborted upload leaves nothing, whether it had no part, some parts, or a commit that was canceled."""
        for parts in range(3):
            writer = await store.create(LOCATION)
            for seed in range(parts):
                await writer.write(content(PART, seed))
            await writer.abort()
            assert not await there(store, LOCATION)
            assert await listed(store) == []
        writer = await store.create(LOCATION)
        await writer.write(content(PART))
        committing = asyncio.create_task(writer.commit())
        await asyncio.sleep(0)
        committing.cancel()
        await asyncio.wait([committing])
        await writer.abort()
        await asyncio.sleep(0.1)  # a thread may still finish what it was doing when it was canceled
        assert not await there(store, LOCATION)

    @_test
    async def test_listed(self, store: ArtifactStore) -> None:
        """`list` returns every artifact whose location begins with the prefix, each once."""
        locations = [f"{job}/{attempt}/{nth}" for job in (A, B, A[:-1]) for attempt in (1, 2, 10) for nth in range(5)]
        for location in locations:
            await put(store, location, b"x")
        assert await listed(store) == sorted(locations)
        for job in (A, B, A[:-1]):
            assert await listed(store, f"{job}/") == sorted(
                location for location in locations if location.startswith(f"{job}/")
            )
        assert await listed(store, f"{A[:-2]}/") == []

    @_test
    async def test_listed_in_full(self, store: ArtifactStore) -> None:
        """`list` returns more artifacts than fit on a page, even if some are removed meanwhile."""
        locations = [f"{A[:-4]}{nth:04}/1/x" for nth in range(1200)]
        async with asyncio.TaskGroup() as group:
            for location in locations:
                group.create_task(put(store, location, b"x"))
        assert await listed(store) == locations
        seen: list[str] = []
        async for some in store.list(""):
            seen.extend(some)
            await store.remove(some)
        assert sorted(seen) == locations
        assert await listed(store) == []

    @_test
    async def test_removed(self, store: ArtifactStore) -> None:
        """A removed artifact is gone and others are not; removing it again does nothing."""
        locations = [f"{A}/1/{nth}" for nth in range(4)]
        for location in locations:
            await put(store, location, b"x")
        for _ in range(2):
            await store.remove([locations[0], locations[2]])
            assert [await there(store, location) for location in locations] == [False, True, False, True]

    @_test
    async def test_replaced(self, store: ArtifactStore) -> None:
        """A second upload to a location replaces the first at its commit; the first can be read until then."""
        old, new = content(2 * PART, 1), content(3 * PART, 2)
        await put(store, LOCATION, old)
        writer = await store.create(LOCATION)
        for begin in range(0, len(new), PART):
            await writer.write(new[begin : begin + PART])
            assert await read(store, LOCATION, 0, len(old)) == old
        await writer.commit()
        assert await store.size(LOCATION) == len(new)
        assert await read(store, LOCATION, 0, len(new)) == new
        await store.remove([LOCATION])
        assert not await there(store, LOCATION)

    @_test
    async def test_opened_again(self, store: ArtifactStore, make_store: MakeStore) -> None:
        """A committed artifact can be read after the storage was opened again."""
        data = content(PART + 17)
        await put(store, LOCATION, data)
        await store.close()
        await store.close()
        second = make_store()
        await second.close()  # it was never started
        second = make_store()
        try:
            await second.start(create=False)
            assert await read(second, LOCATION, 0, len(data)) == data
        finally:
            await second.close()

    @_test
    async def test_abandoned(self, store: ArtifactStore, make_store: MakeStore) -> None:
        """An upload that a crash interrupted cannot be read; if it is listed, it can be removed."""
        writer = await store.create(LOCATION)
        await writer.write(content(2 * PART))
        await store.close()
        second = make_store()
        try:
            await second.start(create=True)
            assert not await there(second, LOCATION)
            left = await listed(second)
            assert left == await listed(second, f"{A}/")
            assert all(location.startswith(f"{A}/1/") for location in left)
            await second.remove(left)
            assert await listed(second) == []
        finally:
            await second.close()
            with suppress(Exception):
                await writer.abort()  # only to free what it holds in this process

    @_test
    async def test_two_servers(self, store: ArtifactStore, make_store: MakeStore) -> None:
        """A file that one server commits or removes is committed or removed for another server too."""
        second = make_store()
        try:
            await second.start(create=True)
            await put(store, LOCATION, content(PART))
            assert await store.size(LOCATION) == await second.size(LOCATION) == PART
            assert await read(second, LOCATION, 0, PART) == content(PART)
            await second.remove([LOCATION])
            assert not await there(store, LOCATION)
        finally:
            await second.close()

    @_test
    async def test_many_at_once(self, store: ArtifactStore) -> None:
        """Uploads, reads, listings and removals at the same time do not affect each other."""

        async def one(nth: int) -> None:
            location, data = f"{A}/{nth % 3}/{nth}", content(3 * PART + nth, nth)
            await put(store, location, data)
            assert await read(store, location, 0, len(data)) == data
            assert location in await listed(store, f"{A}/")
            if nth % 2:
                await store.remove([location])

        async with asyncio.TaskGroup() as group:
            for nth in range(20):
                group.create_task(one(nth))
        assert await listed(store) == sorted(f"{A}/{nth % 3}/{nth}" for nth in range(0, 20, 2))

    @_test
    async def test_removed_while_it_is_read(self, store: ArtifactStore) -> None:
        """Reading an artifact that is removed meanwhile goes on to its end or fails; it is never cut short."""
        data = content(20 * PART)
        await put(store, LOCATION, data)
        parts = store.read(LOCATION, 0, len(data))
        got = await anext(parts)
        await store.remove([LOCATION])
        try:
            async for part in parts:
                got += part
        except Unavailable:
            return
        assert got == data

    @_test
    async def test_check(self, store: ArtifactStore) -> None:
        """`check` of an open store succeeds."""
        await store.check()

    @_test
    async def test_free_space(self, store: ArtifactStore) -> None:
        """`free_space` says how much of the file system is free, not more than its size, or that nobody knows it."""
        space = await store.free_space()
        assert space is None or 0 <= space.free <= space.size
