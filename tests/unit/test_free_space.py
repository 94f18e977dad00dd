"""The reserve of free space on a file system."""

import pytest

from composerd.errors import StorageFull, Unavailable
from composerd.free_space import DiskSpace, FreeSpace

GIB = 1024**3


class Disk:
    """A file system with as much free space as the test says."""

    def __init__(self, free: int, size: int) -> None:
        self.space: DiskSpace | None = DiskSpace(free, size)
        self.fails = False

    async def measure(self) -> DiskSpace | None:
        """Return the space."""
        if self.fails:
            raise Unavailable
        return self.space

    def watched(self, reserve: int | None) -> FreeSpace:
        """Return a watch of the file system, which has not measured anything yet."""
        return FreeSpace("the tests", "writes", self.measure, reserve)


@pytest.mark.parametrize(
    ("size", "reserve", "kept"),
    [(100, None, 5), (10 * GIB, None, GIB // 2), (100 * GIB, None, GIB), (100, 30, 30), (100, 200, 200)],
)
async def test_the_reserve(size: int, reserve: int | None, kept: int) -> None:
    """The reserve is 5% of the file system, and at most 1 GiB, unless it is set."""
    for free, low in ((kept, False), (kept - 1, True)):
        space = Disk(free, size).watched(reserve)
        await space.look()
        assert space.is_low is low


async def test_what_is_written_between_measurements_counts() -> None:
    """Bytes that are about to be written use up the space until it is measured again."""
    disk = Disk(100, 1000)
    space = disk.watched(40)
    await space.look()
    space.take(50)
    space.check(10)
    with pytest.raises(StorageFull):
        space.check(11)
    with pytest.raises(StorageFull):
        space.take(11)
    await space.look()
    space.take(60)


async def test_space_that_is_not_known() -> None:
    """There is enough before the first measurement, without a reserve, and if nobody knows it."""
    disk = Disk(0, 100)
    before, without = disk.watched(None), disk.watched(0)
    before.check(1000)
    await without.look()
    without.check(1000)
    await before.look()
    assert before.is_low
    disk.fails = True
    await before.look()
    assert before.is_low, "a failed measurement says nothing"
    disk.fails, disk.space = False, None
    await before.look()
    before.check(1000)


async def test_a_shortage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A shortage has a line when it begins and one when it ends; another one soon after it has none."""
    disk = Disk(0, 100)
    space = disk.watched(None)
    for free in (0, 0, 50, 50, 0, 50):
        disk.space = DiskSpace(free, 100)
        await space.look()
    shortage = "only 0 B are free on the file system of the tests, less than min_free_space (5 B)"
    assert caplog.messages == [
        f"{shortage}: writes are refused until there is more",
        "enough space is free on the file system of the tests again: writes are accepted",
    ]
