"""Checkpoints and compaction: a checkpoint holds the state of one moment, and the journal stays small."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composerd.directory import Directory
from composerd.errors import StorageFull, StorageUnusable, Unavailable
from composerd.models import JobState
from composerd_fs import FsDriver, MemoryDriver
from composerd_fs.journal.checkpoint import Restoration, Snapshot
from composerd_fs.journal.entries import CheckpointEntry
from composerd_fs.state.table import Table

from ..conftest import Instance, instance_of, opened
from ..test_same_history import CHANGE, History, everything, weights

BEFORE = st.lists(CHANGE, min_size=15, max_size=40)
MEANWHILE = st.lists(CHANGE, min_size=1, max_size=20)
KIB = b'"' + b"x" * 1022 + b'"'


@settings(max_examples=300, deadline=None)
@given(BEFORE, MEANWHILE)
async def test_a_checkpoint_is_of_one_moment(before: list[tuple[str, Any]], meanwhile: list[tuple[str, Any]]) -> None:
    """A checkpoint restores the table as it was when it began, however the table changes while it is taken."""
    with patch("composerd_fs.state.archive._CHUNK", 1):  # a snapshot takes a job at a time
        await _compare_snapshot(before, meanwhile)


async def _compare_snapshot(before: list[tuple[str, Any]], meanwhile: list[tuple[str, Any]]) -> None:
    history = History(MemoryDriver.from_url("memory:"))
    await history.driver.start()
    for kind, what in before:
        await history.do(kind, what)
    table: Table = history.driver._table
    while table.unpropagated:
        await history.driver.advance(1000)
    expected, counts = everything(table), dict(table.jobs.counts)
    snapshot = Snapshot(table, 1)
    taken: list[CheckpointEntry] = []
    for kind, what in meanwhile:
        await history.do(kind, what)
        if not snapshot.complete:
            taken += snapshot.some(1)
    while not snapshot.complete:
        taken += snapshot.some(1)
    snapshot.close()
    restored = Table()
    restoration = Restoration(restored)
    for entry in taken:
        restoration.apply(entry)
    assert everything(restored) == expected
    assert restored.jobs.counts == counts
    tokens = [attempt.token for one in expected for attempt in one.attempts]
    assert all(restored.jobs.find_attempt(token) is not None for token in tokens)
    assert restored.jobs.live_bytes == weights(restored)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a segment after 64 KiB, and a checkpoint whenever the journal has grown by 128 KiB."""
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 64 * 1024)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 128 * 1024)


async def quiet(instance: Instance) -> None:
    """Wait until the compactor has nothing to do."""
    while (task := instance.driver._compactor._task) is not None:  # type: ignore[attr-defined]
        await asyncio.wait([task])


def used(instance: Instance) -> int:
    """Return the bytes of all files in the journal's directory."""
    return sum(path.stat().st_size for path in (instance.directory / "journal").iterdir())


async def churn(instance: Instance, jobs: int, *, live: int) -> list[Any]:
    """Submit and finish jobs with payloads of a KiB, delete all but the last `live`, and return the ids of those."""
    ids: list[Any] = []
    for _ in range(jobs):
        job_id = await instance.add(args=KIB)
        await instance.end(job_id, KIB)
        ids.append(job_id)
        if len(ids) > live:
            assert await instance.delete(ids.pop(0))
    return ids


@pytest.mark.usefixtures("small")
async def test_disk_use_stays_in_proportion_to_the_stored_jobs(tmp_path: Path) -> None:
    """The files take at most twice the size of the stored jobs, and what is written until the next checkpoint."""
    async with instance_of("fs", tmp_path / "storage") as fs:
        ids = await churn(fs, 1500, live=100)
        await quiet(fs)
        live = 100 * (2 * 1024 + 300)
        assert used(fs) < 2 * live + 3 * 128 * 1024
        assert len(list((tmp_path / "storage" / "journal").glob("*.checkpoint"))) == 1
        before = await fs.dump()
        await fs.reopen()
        assert await fs.dump() == before
        assert [one.new.id for one in before] == ids
        assert all((one.new.args, one.result) == (KIB, KIB) for one in before)


@pytest.mark.usefixtures("small")
async def test_long_lived_jobs_among_short_lived_ones(tmp_path: Path) -> None:
    """Live payloads are copied out of sparse segments, and do not change."""
    async with instance_of("fs", tmp_path / "storage") as fs:
        lasting = []
        for number in range(30):
            lasting.append(await fs.add(args=b"%d" % number * 100, not_before=1e6))
            await churn(fs, 30, live=0)
        await quiet(fs)
        await churn(fs, 200, live=0)
        await quiet(fs)
        segments = list((tmp_path / "storage" / "journal").glob("*.log"))
        assert len(segments) < 12
        for number, job_id in enumerate(lasting):
            assert await fs.args(job_id) == b"%d" % number * 100
        await fs.reopen()
        for number, job_id in enumerate(lasting):
            assert await fs.args(job_id) == b"%d" % number * 100


@pytest.mark.usefixtures("small")
async def test_a_start_reads_the_checkpoint_and_the_segments_after_it(tmp_path: Path) -> None:
    """Segments from before the checkpoint are not read, and those without a live payload are removed."""
    async with instance_of("fs", tmp_path / "storage") as fs:
        await churn(fs, 300, live=0)
        await quiet(fs)
        await fs.add(args=KIB)
        await fs.reopen()
        journal = fs.driver._journal  # type: ignore[attr-defined]
        assert journal.written_bytes < 300 * 1024
        assert (await fs.driver.info()).jobs[JobState.READY] == 1
        assert 1 not in [int(path.stem) for path in (tmp_path / "storage" / "journal").glob("*.log")]


@pytest.mark.usefixtures("small")
async def test_a_crash_at_any_moment_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start finds all acknowledged jobs in the directory as it was after any rename or removal of a file."""
    copies: list[tuple[Path, list[Any]]] = []
    acknowledged: list[Any] = []
    root = tmp_path / "storage"

    def noticing(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            done = call(*args, **kwargs)
            if len(copies) < 40:
                copy = tmp_path / f"copy{len(copies)}"
                shutil.copytree(root, copy, ignore=shutil.ignore_patterns("CLOCK.tmp"))
                copies.append((copy, list(acknowledged)))
            return done

        return made

    async def inline(work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    async with instance_of("fs", root) as fs:
        monkeypatch.setattr("composerd_fs.journal.compactor.asyncio.to_thread", inline)
        with monkeypatch.context() as patch:
            for name in ("rename", "unlink"):
                patch.setattr(os, name, noticing(getattr(os, name)))
            for number in range(25):
                acknowledged.append((await fs.add(args=b"%d" % number * 60, not_before=1e6), b"%d" % number * 60))
                await churn(fs, 25, live=0)
            await quiet(fs)
    assert len(copies) > 10
    for copy, known in copies:
        driver = await opened(copy)
        instance = Instance(driver, copy)
        for job_id, args in known:
            assert await instance.args(job_id) == args
        assert not list((copy / "journal").glob("*.tmp"))
        await driver.close()


async def filled(tmp_path: Path) -> tuple[Path, Any]:
    """Return a closed storage with a checkpoint, and a job whose args are in a segment from before it."""
    async with instance_of("fs", tmp_path / "storage") as fs:
        ids = [await fs.add(args=b"%d" % number * 200, not_before=1e6) for number in range(300)]
        await churn(fs, 100, live=0)
        await quiet(fs)
        assert fs.driver._compactor.checkpoint is not None  # type: ignore[attr-defined]
        return tmp_path / "storage", ids[0]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("where", ["segment", "checkpoint", "missing"])
async def test_damage_after_a_checkpoint(tmp_path: Path, where: str) -> None:
    """A damaged checkpoint or a missing segment stops the start, a damaged payload is an error when it is read.

    The check names each of them.
    """
    root, job_id = await filled(tmp_path)
    journal = root / "journal"
    first = min(journal.glob("*.log"))
    checkpoint = next(iter(journal.glob("*.checkpoint")))
    if where == "missing":
        first.unlink()
    else:
        damaged = first if where == "segment" else checkpoint
        data = bytearray(damaged.read_bytes())
        data[200] ^= 1
        damaged.write_bytes(data)
    problems = (await FsDriver(root).check()).problems
    assert len(problems) == 1
    assert str(checkpoint if where == "checkpoint" else first) in problems[0]
    if where == "segment":
        instance = Instance(await opened(root), root)
        with pytest.raises(Unavailable, match="damaged"):
            await instance.args(job_id)
        await instance.driver.close()
    else:
        with pytest.raises(StorageUnusable, match="restore it from a backup"):
            await opened(root)


@pytest.mark.usefixtures("small")
async def test_a_full_disk_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that finds no room on the disk is given up and tried again later; jobs are still accepted."""

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with instance_of("fs", tmp_path / "storage") as fs:
        with monkeypatch.context() as patch:
            patch.setattr("composerd_fs.journal.compactor._finish", full)
            await churn(fs, 60, live=60)
            await quiet(fs)
        journal = tmp_path / "storage" / "journal"
        assert not list(journal.glob("*.tmp"))
        assert not list(journal.glob("*.checkpoint"))
        await churn(fs, 60, live=60)
        await quiet(fs)
        assert len(list(journal.glob("*.checkpoint"))) == 1


async def test_a_stop_while_a_checkpoint_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that are waiting when the storage is closed are written, and no checkpoint begins any more."""
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 1)
    monkeypatch.setattr("composerd_fs.commit.MAX_BYTES", 1)  # a flush for each
    async with instance_of("fs", tmp_path / "storage") as fs:
        driver: Any = fs.driver
        jobs = [fs.new(args=KIB) for _ in range(50)]
        writes = [asyncio.create_task(driver.enqueue([[job]])) for job in jobs]
        await asyncio.sleep(0)
        await driver.close()
        assert driver._compactor._task is None
        for write in writes:
            await write
        assert not list((tmp_path / "storage" / "journal").glob("*.tmp"))
        fs.driver = await opened(tmp_path / "storage")
        assert len(await fs.dump()) == 50


async def test_a_stop_while_a_checkpoint_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint whose file is being opened when the storage is closed leaves neither the file nor an open handle."""
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 1)
    opening, go = threading.Event(), threading.Event()
    handles: list[BinaryIO] = []
    really_create = Directory.create

    def slowly(directory: Directory, name: str) -> BinaryIO:
        if not name.endswith(".checkpoint"):
            return really_create(directory, name)
        opening.set()
        go.wait(60)
        handles.append(really_create(directory, name))
        return handles[0]

    monkeypatch.setattr(Directory, "create", slowly)
    async with instance_of("fs", tmp_path / "storage") as fs:
        while not opening.is_set():
            await fs.add()
        closing = asyncio.create_task(fs.driver.close())
        await asyncio.sleep(0)
        go.set()
        await closing
    assert handles[0].closed
    assert not list((tmp_path / "storage" / "journal").glob("*.tmp"))


async def test_a_refused_delete_while_a_segment_is_emptied(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose deletion cannot be written is stored again: its payload is copied before its segment is removed."""
    driver: Any = fs.driver
    job_id = await fs.add(args=KIB)
    await fs.cancel(job_id)
    await driver._journal.rotate()
    blocked, flushing, looked = asyncio.Event(), asyncio.Event(), asyncio.Event()
    flush, between_flushes = driver._journal.flush, driver._compactor._sparse._between_flushes

    async def refused(*_args: Any) -> Any:
        flushing.set()
        await blocked.wait()
        monkeypatch.setattr(driver._journal, "flush", flush)
        raise StorageFull("no room")

    async def observed(*call: Any) -> Any:
        looked.set()
        return await between_flushes(*call)

    monkeypatch.setattr(driver._journal, "flush", refused)
    monkeypatch.setattr(driver._compactor._sparse, "_between_flushes", observed)
    deleting = asyncio.create_task(fs.delete(job_id))
    await flushing.wait()
    emptying = asyncio.create_task(driver._compactor._sparse.empty({1}))
    await looked.wait()
    blocked.set()
    with pytest.raises(StorageFull):
        await deleting
    await emptying
    assert driver._table.jobs.live_bytes.keys() == {2}
    assert await fs.args(job_id) == KIB
