"""A full disk: what ends or removes jobs is stored from the reserve, and everything else when there is room."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from composerd.errors import StorageFull
from composerd.models import JobState, Outcome

from ..conftest import Instance, instance_of
from .small_disks import SMALL_DISKS, fill, set_quota, small_disk


def some(size: int) -> bytes:
    """Return a JSON string of this size that no file system can compress."""
    return b'"' + os.urandom(size // 2 - 1).hex().encode() + b'"'


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    while not holds():  # noqa: ASYNC110  # nothing signals it
        await asyncio.sleep(0.01)


async def accepted(instance: Instance, **fields: Any) -> None:
    """Wait until a submission is accepted."""
    while True:
        try:
            await instance.add(**fields)
        except StorageFull:
            await asyncio.sleep(0.05)
        else:
            return


@pytest.mark.parametrize("kind", SMALL_DISKS)
async def test_jobs_can_be_ended_and_removed(tmp_path: Path, kind: str) -> None:
    """On a full disk submissions and claims change nothing, and jobs can be ended, requeued and deleted."""
    with small_disk(kind, tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            ended = [await fs.add(args=some(1000)) for _ in range(20)]
            for job_id in ended:
                await fs.end(job_id)
            finishing, releasing = [await fs.take(await fs.add()) for _ in range(2)]
            canceled = await fs.add(not_before=1e6)
            expired = await fs.add()
            await fs.take(expired, lease=1e-6)
            ballast = fill(disk)
            before = await fs.dump()
            for refused in (fs.add(args=some(200_000)), fs.finish(finishing, some(200_000))):
                with pytest.raises(StorageFull):
                    await refused
            assert await fs.dump() == before

            assert await fs.finish(finishing, some(50_000)) == "accepted"
            await fs.release(releasing)
            await fs.cancel(canceled)
            await fs.driver.advance(100)
            for job_id in ended[1:]:
                await fs.delete(job_id)
            with pytest.raises(StorageFull):
                await fs.claim()
            assert await fs.state(expired) is JobState.READY
            after = await fs.dump()
            assert len(after) == 5
            await fs.reopen()
            assert await fs.dump() == after

            ballast.unlink()
            await accepted(fs, args=some(9000))
            await fs.reopen()
            assert len(await fs.dump()) == 6


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
async def test_another_program_takes_what_is_free(tmp_path: Path, kind: str) -> None:
    """Jobs can be deleted on a full disk although another program takes every byte as soon as it is free."""
    with small_disk(kind, tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            job_ids = [await fs.add(not_before=1e6) for _ in range(100)]
            with fill(disk).open("ab", buffering=0) as file:
                for job_id in job_ids:
                    await fs.cancel(job_id)
                    await fs.delete(job_id)
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(4096))
            assert await fs.dump() == []


async def test_a_flush_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fits is stored although one of the same flush does not fit, and large writes are not all tried."""
    with small_disk("ext4", tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            ended = [await fs.add() for _ in range(5)]
            for job_id in ended:
                await fs.end(job_id)
            token = await fs.take(await fs.add())
            await fs.submit(*[fs.new(not_before=1e6) for _ in range(50)])
            fill(disk)
            writes = 0
            pwrite = os.pwrite

            def counted(*args: Any) -> int:
                nonlocal writes
                writes += 1
                return pwrite(*args)

            monkeypatch.setattr(os, "pwrite", counted)
            nothing = fs.driver.enqueue([[]])
            submissions = [fs.driver.enqueue([[fs.new(args=some(200_000))]]) for _ in range(200)]
            ends: list[Any] = [fs.driver.delete([job_id]) for job_id in ended]
            ends += [fs.driver.finish([Outcome(token, b"1", failed=False)]), fs.driver.purge(10), fs.driver.advance(10)]
            answers = await asyncio.gather(nothing, *submissions, *ends, return_exceptions=True)
            assert [one for one in answers[201:] if isinstance(one, BaseException)] == []
            assert {type(one) for one in answers[1:201]} == {StorageFull}
            assert writes < 30


def size_of(disk: Path) -> int:
    """Return the bytes of the segments and checkpoints of a storage."""
    files = (disk / "storage" / "journal").iterdir()
    return sum(path.stat().st_size for path in files if path.suffix in (".log", ".checkpoint"))


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "tmpfs"])
async def test_the_journal_itself_has_filled_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """If only the journal is on a full disk, deleting jobs frees their room, and submissions are accepted again."""
    monkeypatch.setattr("composerd_fs.journal.compactor.RETRY_AFTER", 0.05)
    with small_disk(kind, tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            job_ids = [await fs.add(args=some(20_000))]
            with contextlib.suppress(StorageFull):
                while True:
                    job_ids.append(await fs.add(args=some(1 << 20)))
            before = size_of(disk)
            for job_id in job_ids[1:]:
                await fs.cancel(job_id)
                await fs.delete(job_id)
            await accepted(fs, args=some(1 << 20))
            assert size_of(disk) < before - (4 << 20)
            await fs.reopen()
            assert len(await fs.dump()) == 2


async def test_a_checkpoint_without_room_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint that finds no room is taken when there is room, although nothing else is written by then."""
    monkeypatch.setattr("composerd_fs.journal.compactor.RETRY_AFTER", 0.05)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 8 << 20)
    monkeypatch.setattr("composerd_fs.journal.compactor.SIZE_OF_A_JOB", 1 << 30)  # the reserve is not enough
    with small_disk("ext4", tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            job_ids = [await fs.add(args=some(size)) for size in (1000, *[1 << 20] * 5)]
            ballast = fill(disk)
            for job_id in job_ids[1:]:
                await fs.cancel(job_id)
                await fs.delete(job_id)
            await until(lambda: "there is no room for a checkpoint" in caplog.text)
            assert size_of(disk) > 5 << 20
            ballast.unlink()
            await until(lambda: size_of(disk) < 1 << 20)
            await accepted(fs)
            await fs.reopen()
            assert len(await fs.dump()) == 2


async def test_a_stop_with_remains_of_a_refused_write(tmp_path: Path) -> None:
    """Remains of a write that a quota does not let cut off hinder neither a stop and a start nor later writes."""
    with small_disk("btrfs-quota", tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            job_ids: list[Any] = []
            with contextlib.suppress(StorageFull):
                while True:
                    job_ids.append(await fs.add(args=some(1 << 20)))
            assert fs.driver._journal._ragged  # type: ignore[attr-defined]
            before = await fs.dump()
            for _ in range(2):
                await fs.reopen()
                assert await fs.dump() == before
            for job_id in job_ids[5:]:
                await fs.cancel(job_id)
            await fs.reopen()
            assert [one.new.id for one in await fs.dump()] == job_ids
            set_quota(disk, "60M")
            await accepted(fs, args=some(1 << 20))
            await fs.reopen()
            assert len(await fs.dump()) == len(job_ids) + 1


async def test_dead_segments_are_removed_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Segments from before the last checkpoint in which nothing is live are removed although the disk is full."""
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 1 << 20)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 4 << 20)
    with small_disk("ext4", tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            compactor: Any = fs.driver._compactor  # type: ignore[attr-defined]
            await fs.add()
            job_ids = [await fs.add(args=some(1 << 20)) for _ in range(5)]
            await until(lambda: compactor.checkpoint is not None and compactor._task is None)
            checkpoint = compactor.checkpoint
            monkeypatch.setattr("composerd_fs.journal.compactor.SIZE_OF_A_JOB", 1 << 30)  # the reserve is not enough
            fill(disk)
            before = size_of(disk)
            await fs.driver.cancel(job_ids)
            await fs.driver.delete(job_ids)
            await fs.driver.advance(1)
            await until(lambda: "there is no room for a checkpoint" in caplog.text and compactor._task is None)
            assert size_of(disk) < before - (2 << 20)
            assert compactor.checkpoint == checkpoint
            await fs.reopen()
            assert len(await fs.dump()) == 1


async def test_a_snapshot_ends_although_dead_segments_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint that fails before it begins, for want of descriptors, leaves no snapshot that would grow."""
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 1 << 20)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 4 << 20)

    def too_many(*_args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with small_disk("ext4", tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            driver: Any = fs.driver
            job_ids = [await fs.add(args=some(1 << 20)) for _ in range(6)]
            await until(lambda: driver._compactor.checkpoint is not None and driver._compactor._task is None)
            fill(disk)
            monkeypatch.setattr("composerd_fs.journal.compactor.segments_in", too_many)
            await fs.driver.cancel(job_ids)
            await fs.driver.delete(job_ids)
            await fs.driver.advance(1)
            await until(lambda: "compaction of the journal failed" in caplog.text and driver._compactor._task is None)
            assert driver._table.before_change is None


@pytest.mark.parametrize("kind", SMALL_DISKS)
async def test_a_clock_is_confirmed(tmp_path: Path, kind: str) -> None:
    """A clock can be confirmed on a full disk, which may be full because nothing was removed until then."""
    with small_disk(kind, tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            await fs.end(await fs.add(retention=10.0))
            await fs.jump(86_400.0)
            await fs.pass_time(70.0)
            assert (await fs.driver.purge(10)).items == []
            fill(disk)
            await fs.driver.confirm_clock()
            await fs.reopen()
            await fs.pass_time(70.0)
            assert len((await fs.driver.purge(10)).items) == 1


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EPERM])
async def test_a_reserve_that_cannot_be_preallocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    """If a file system cannot preallocate, the reserve is written; if it cannot be kept, the log says so."""

    def failing(*_args: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("composerd_fs.journal.reserve._preallocate", failing)
    with small_disk("tmpfs", tmp_path) as disk:
        async with instance_of("fs", disk / "storage") as fs:
            job_id = await fs.add(args=some(1000))
            fill(disk)
            with pytest.raises(StorageFull):
                await fs.add(args=some(200_000))
            assert len([*disk.glob("storage/journal/*.reserve")]) == (4 if error == errno.EOPNOTSUPP else 0)
            assert ("cannot keep a reserve for a full disk" in caplog.text) == (error == errno.EPERM)
            if error == errno.EOPNOTSUPP:
                await fs.cancel(job_id)
                await fs.delete(job_id)
