"""Tests of the clock of the fs driver: what it stores, what a refused flush takes back, and what stays bounded."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import AsyncMock, patch

import msgspec
import pytest

from composerd.driver.timekeeper import ClockState
from composerd.errors import StorageFull
from composerd.models import Touch
from composerd.testing.kit.instance import LEASE
from composerd_fs import FsDriver
from composerd_fs.journal.clock_file import CLOCK

from ..conftest import Instance, opened

DAYS = 400 * 86_400.0


def clock_file(fs: Instance) -> Path:
    """Return the path of the file in which the driver stores the time."""
    return fs.directory / "journal" / CLOCK


async def ended(fs: Instance, retention: float) -> None:
    """Store a job that has ended."""
    await fs.end(await fs.add(retention=retention))


async def reopened(fs: Instance, jump: float = 0.0) -> None:
    """Open the storage again, with a clock that is set forward or back meanwhile."""
    fs.jumped += jump
    await fs.reopen()


async def test_stored_while_idle(fs: Instance) -> None:
    """A server without work stores the time now and then, so that its restart after a kill is no jump."""
    await fs.shift(7200.0)
    await fs.driver.purge(10)
    assert isinstance(fs.driver, FsDriver)
    while not clock_file(fs).exists():
        await fs.driver.ping()
    stored = msgspec.json.decode(clock_file(fs).read_bytes(), type=ClockState)
    await fs.driver.purge(10)
    assert abs(stored.seen - fs.driver._clock.now()) < 60_000_000
    assert stored.disputed_since == 0


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 40, b'{"seen":"x"}'], ids=["empty", "cut", "zeros", "wrong"])
async def test_a_damaged_file(fs: Instance, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """An unreadable file counts as none: the latest time in the journal stands for it, and the start succeeds."""
    await ended(fs, 1000.0)
    await fs.driver.close()
    clock_file(fs).write_bytes(damage)
    fs.driver = await opened(fs.directory)
    assert "cannot read when the storage was last open" in caplog.text
    await fs.driver.close()
    clock_file(fs).write_bytes(damage)
    fs.driver = FsDriver(fs.directory)
    await fs.driver.jump_clock(DAYS)
    await fs.driver.start()
    await fs.driver.shift_clock(100.0)
    assert (await fs.driver.purge(10)).items == []


async def test_a_storage_without_the_file(fs: Instance) -> None:
    """A storage of an earlier version, whose latest time is far ahead of the clock, opens at the right time."""
    await fs.jump(DAYS)
    wrong = await fs.get(await fs.add())
    await fs.driver.close()
    clock_file(fs).unlink()
    fs.driver = await opened(fs.directory)
    right = await fs.get(await fs.add(not_before=50.0))
    assert (wrong.queued_at - right.queued_at).total_seconds() > DAYS - 60.0
    assert await fs.pass_time(60.0) == [right.id]


async def test_no_room_for_the_file(fs: Instance, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk is logged once, and stops nothing, not even the end of the server."""

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with patch("composerd.directory.Directory.write", full):
        for _ in range(3):
            await fs.shift(100.0)
            await fs.driver.purge(10)
            await fs.driver.ping()
        await fs.reopen()
    assert caplog.text.count("cannot store when the storage was last open") == 1


@pytest.mark.parametrize("jump", [DAYS, -DAYS], ids=["forward", "back"])
async def test_a_refused_flush_takes_the_leases_back(
    fs: Instance, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """If the flush in which a jump was noticed is refused, the next call gives running attempts their full lease."""
    job_id = await fs.add()
    token = await fs.take(job_id)
    await fs.add()
    await fs.pass_time(LEASE - 50.0)
    await fs.jump(jump)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", _no_room)
        answers = await asyncio.gather(fs.attach(token, "log"), fs.claim(), return_exceptions=True)
    assert [type(one) for one in answers] == [StorageFull] * 2
    assert await fs.pass_time(0.0) == []
    assert await fs.pass_time(LEASE - 50.0) == []
    assert await fs.pass_time(60.0) == [job_id]


def _no_room(*_args: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_kept_jobs_are_found_once(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ended jobs are kept because of a jump, a purge looks at none of them."""
    for _ in range(20):
        await ended(fs, 100.0)
    await fs.jump(DAYS)
    await fs.driver.purge(1000)
    await ended(fs, 10.0)
    await fs.pass_time(70.0)
    found: list[int] = []
    jobs = fs.driver._table.jobs  # type: ignore[attr-defined]
    look: Callable[[int], object] = jobs.at

    def noted(sequence: int) -> object:
        found.append(sequence)
        return look(sequence)

    monkeypatch.setattr(jobs, "at", noted)
    assert len((await fs.driver.purge(1000)).items) == 1
    assert set(found) == {21}
    await fs.driver.confirm_clock()
    assert len((await fs.driver.purge(1000)).items) == 20


async def test_a_needed_job_is_found_once(fs: Instance) -> None:
    """A job past its retention that an unended job needs is purged right after that job has ended."""
    first = await fs.add(retention=10.0)
    dependent = await fs.add(first)
    await fs.end(first)
    await fs.pass_time(70.0)
    for _ in range(3):
        assert (await fs.driver.purge(10)).items == []
    await fs.end(dependent)
    assert (await fs.driver.purge(10)).items == [first]


async def killed(fs: Instance) -> None:
    """Open the storage again as after a kill, with the file `CLOCK` as it was stored last."""
    assert isinstance(fs.driver, FsDriver)
    fs.driver._journal.broken = "the server is killed"  # so it leaves no marker
    with patch("composerd_fs.journal.clock_file.ClockFile.close", AsyncMock()):
        await fs.reopen()


@pytest.mark.parametrize("jump", [8 * 3600.0, -8 * 3600.0], ids=["forward", "back"])
async def test_a_kill_after_a_jump(fs: Instance, jump: float) -> None:
    """A timeout counts the time that passes also if the server is killed after the clock has jumped."""
    job_id = await fs.add(timeout=3 * LEASE)
    token = await fs.take(job_id)
    await fs.jump(jump)
    assert await fs.pass_time(0.0) == []
    assert isinstance(fs.driver, FsDriver)
    await fs.driver._clock_file._ended()
    await killed(fs)
    for _ in range(3):
        assert await fs.pass_time(LEASE - 50.0) == []
        await fs.touch(token)
    assert await fs.pass_time(200.0) == [job_id]


async def test_who_has_called_is_known_after_a_kill(fs: Instance) -> None:
    """After a kill, a worker that attached a file or called more than a minute ago is lost counted, another is not."""
    await fs.submit(*[fs.new() for _ in range(3)])
    called, attached, unseen = [await fs.take() for _ in range(3)]
    await fs.touch(called)
    await fs.pass_time(70.0)  # the file `CLOCK` is written once a minute
    assert isinstance(fs.driver, FsDriver)
    await fs.driver._clock_file._ended()
    await fs.attach(attached, "log")
    await killed(fs)
    jobs = [(await fs.driver.touch([Touch(one, confirm=False)])).items[0].job_id for one in (called, attached, unseen)]
    assert len(await fs.pass_time(LEASE + 10.0)) == 3
    assert [(await fs.get(one)).retries for one in jobs if one is not None] == [1, 1, 0]


async def test_the_clock_stands_still_in_no_file(fs: Instance) -> None:
    """Each start knows when the storage was last open: one that is a day later keeps ended jobs, the next one too."""
    await ended(fs, 100.0)
    await reopened(fs, 86_400.0)
    await fs.pass_time(70.0)
    assert (await fs.driver.purge(10)).items == []
    assert "clock" in (await fs.driver.info()).details
    await reopened(fs)
    await fs.pass_time(70.0)
    assert (await fs.driver.purge(10)).items == []
    await fs.driver.confirm_clock()
    assert len((await fs.driver.purge(10)).items) == 1
