"""Disks that fail: a refused flush leaves nothing, a torn end is cut off, and damage elsewhere stops the start."""

import asyncio
import contextlib
import errno
import os
import resource
import shutil
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from composerd.directory import Directory
from composerd.errors import ComposerdError, OutcomeUnknown, StorageFull, StorageUnusable, Unavailable, WritesStopped
from composerd.models import Artifact, Attachment, Enqueued, JobState, Key, NewJob, Outcome, Touch
from composerd.testing.kit.instance import BUILD, add_jobs_in_every_state
from composerd_fs import FsDriver
from composerd_fs.journal.frames import SEGMENT_HEADER
from composerd_fs.journal.secret_file import SECRET
from composerd_fs.state import progress
from composerd_fs.state.changes import Slices
from composerd_fs.state.commands import Commands
from composerd_fs.state.queries import counted_usage
from composerd_fs.state.table import Table

from ..conftest import Instance, instance_of, opened

pwrite = os.pwrite
LARGE = b'"' + b"x" * 100 + b'"'
"""A payload that is too large to be in its entry."""


def failing(error: int, *, after: int = 0) -> Callable[..., int]:
    """Return a system call that fails with an error after `after` bytes were written."""

    def call(descriptor: int, *args: Any) -> int:
        if after:
            data, offset = args
            pwrite(descriptor, bytes(data)[:after], offset)
        raise OSError(error, os.strerror(error))

    return call


async def mixed_flush(fs: Instance, tokens: dict[str, Any]) -> list[object]:
    """Make one flush of every kind of write, and return the answers."""
    return await asyncio.gather(
        fs.driver.enqueue([[fs.new(idempotency_key="new")], [fs.new(*tokens["deps"])]]),
        fs.claim(),
        fs.driver.finish([Outcome(tokens["finish"], b"1", failed=False)]),
        fs.driver.attach([Attachment(tokens["attach"], Artifact("b", 1, "cd" * 32, "elsewhere"))]),
        fs.driver.release([tokens["release"]]),
        fs.driver.cancel([tokens["cancel"]]),
        fs.driver.delete([tokens["delete"]]),
        fs.driver.advance(100),
        return_exceptions=True,
    )


async def busy(fs: Instance) -> dict[str, Any]:
    """Fill a storage so that there is work for every kind of write, and return the tokens and ids for it."""
    ended = await fs.add(priority=9)
    await fs.end(ended)
    finish = await fs.take(await fs.add())
    attach = await fs.take(await fs.add())
    await fs.attach(attach, "a")
    release = await fs.take(await fs.add())
    await fs.attach(release, "c")
    root = await fs.add(not_before=1e6)
    child = await fs.add(root)
    await fs.add(retry_on_failure=1)
    await fs.add()
    await fs.take(lease=1e-6)
    await fs.add(not_before=1e-6)
    return {
        "finish": finish,
        "attach": attach,
        "release": release,
        "cancel": root,
        "delete": ended,
        "deps": [child],
    }


def miscounted(fs: Instance) -> list[str]:
    """Return the channels of which the driver has not counted correctly what their jobs use."""
    table: Table = fs.driver._table  # type: ignore[attr-defined]
    return counted_usage(table).differing(table.jobs.usage)


@pytest.mark.parametrize("after", [0, 40])
async def test_a_full_disk_changes_nothing_and_recovers(
    fs: Instance, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """A full disk refuses every kind of write, leaves the table as it was, still reads, and recovers by itself."""
    tokens = await busy(fs)
    before = await fs.dump()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC, after=after))
        answers = await mixed_flush(fs, tokens)
        assert [type(one) for one in answers] == [StorageFull] * len(answers)
        assert await fs.dump() == before
        assert miscounted(fs) == []
        assert (await fs.driver.touch([Touch(tokens["finish"])])).items[0].state == "running"
    answers = await mixed_flush(fs, tokens)
    assert not [one for one in answers if isinstance(one, BaseException)]
    assert miscounted(fs) == []
    after_flush = await fs.dump()
    assert after_flush != before
    await fs.reopen()
    await fs.driver.advance(100)  # that a delay is over is not recorded
    assert await fs.dump() == after_flush


async def test_a_refused_load_leaves_nothing(fs: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs with attempts that a full disk refuses to load are not there, and can be loaded when there is room."""
    async with instance_of("fs", tmp_path / "source") as source:
        await add_jobs_in_every_state(source)
        stored = await source.dump()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(StorageFull):
            await fs.driver.load(stored)
        assert await fs.dump() == []
        assert set((await fs.driver.info()).jobs.values()) == {0}
        assert miscounted(fs) == []
    await fs.shift(20_000.0)
    assert (await fs.driver.advance(100)).items == []
    await fs.driver.load(stored)
    assert await fs.dump() == stored


async def test_a_refused_delete_keeps_dependents(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a full disk refuses to delete a job and a job that depends on it, the first still names its dependent."""
    dependency = await fs.add()
    dependent = await fs.add(dependency)
    for job_id in (dependency, dependent):
        await fs.end(job_id)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(StorageFull):
            await fs.driver.delete([dependent, dependency])
    assert (await fs.get(dependency)).dependents == (dependent,)
    assert miscounted(fs) == []


@pytest.mark.parametrize("kind", ["fs", "memory"])
async def test_a_write_that_fails_by_itself_affects_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of concurrent writes, one that fails unexpectedly gets its error, and the others are stored."""
    store = Commands._enqueue

    def fail(self: Commands, submission: Sequence[NewJob]) -> Slices[Enqueued]:
        if submission[0].priority == 13:
            raise RuntimeError("no such luck")
        return store(self, submission)

    async with instance_of(kind, tmp_path / "storage") as instance:
        monkeypatch.setattr(Commands, "_enqueue", fail)
        jobs = [instance.new(priority=priority) for priority in (1, 13, 3)]
        answers = await asyncio.gather(*[instance.driver.enqueue([[one]]) for one in jobs], return_exceptions=True)
        assert [isinstance(one, RuntimeError) for one in answers] == [False, True, False]
        assert [one.new.priority for one in await instance.dump()] == [1, 3]


@pytest.mark.parametrize("end", ["finish", "release", "cancel"])
async def test_a_refused_end_keeps_progress(fs: Instance, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """The progress of an attempt is shown until the attempt ends, also after an end that a full disk has refused."""
    job_id = await fs.add()
    token = await fs.take(job_id)
    await fs.touch(token, b"half")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(StorageFull):
            await (fs.cancel(job_id) if end == "cancel" else getattr(fs, end)(token))
    assert (await fs.get(job_id)).partial == b"half"
    await fs.release(token)
    assert (await fs.get(job_id)).partial is None


async def test_much_progress(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is too much progress, that of the channel that has most is forgotten, the oldest first."""
    monkeypatch.setattr(progress, "MAX_PARTIALS", 10)
    channels = ["org-a", "org-b", "org-b", "org-b"]
    jobs = [await fs.add(channel=channel) for channel in channels]
    tokens = [await fs.take(job, (Key(channel, "build", None),)) for job, channel in zip(jobs, channels, strict=True)]

    async def kept() -> list[bytes | None]:
        return [(await fs.get(job)).partial for job in jobs]

    for token in tokens:
        await fs.touch(token, b"1234")
    assert await kept() == [b"1234", None, None, b"1234"]
    await fs.touch(tokens[1], b"12345678901")
    assert await kept() == [None, b"12345678901", None, None]
    await fs.touch(tokens[0], b"12345678901234")
    assert await kept() == [b"12345678901234", None, None, None]


@pytest.mark.parametrize(("call", "error"), [("pwrite", errno.EIO), ("pwrite", errno.EROFS), ("fdatasync", errno.EIO)])
async def test_no_write_is_accepted_after_a_failed_one(
    fs: Instance, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    """After an I/O error, on a read-only disk or after a failed fdatasync no write is accepted; reads go on.

    The outcome of the writes whose fdatasync has failed is unknown. All others have changed nothing.
    """
    tokens = await busy(fs)
    before = await fs.dump()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(error))
        answers = await mixed_flush(fs, tokens)
    refused = OutcomeUnknown if call == "fdatasync" else WritesStopped
    assert [type(one) for one in answers] == [refused] * len(answers)
    assert await fs.dump() == before
    with pytest.raises(Unavailable, match="restart composerd") as later:
        await fs.add()
    assert type(later.value) is WritesStopped
    with pytest.raises(Unavailable, match="restart composerd"):
        await fs.driver.ping()
    assert await fs.dump() == before


async def test_nothing_is_written_to_a_closed_storage(fs: Instance, tmp_path: Path) -> None:
    """A write after the end is refused, does not get into another file, and the storage can be opened again."""
    await fs.add()
    before = await fs.dump()
    late = asyncio.create_task(fs.driver.close())
    await asyncio.sleep(0)
    writes = [asyncio.create_task(fs.add(args=LARGE)) for _ in range(3)]
    await late
    answers = await asyncio.gather(*writes, return_exceptions=True)
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context((tmp_path / str(nth)).open("wb", buffering=0)) for nth in range(30)]
        with pytest.raises(Unavailable, match="not open"):
            await fs.add(args=LARGE)
        with pytest.raises(Unavailable, match="not open"):
            await fs.driver.ping()
        assert {os.fstat(one.fileno()).st_size for one in others} == {0}
    fs.driver = await opened(fs.directory)
    accepted = [one for one in answers if not isinstance(one, BaseException)]
    assert len(await fs.dump()) == len(before) + len(accepted)


async def test_a_flush_that_is_under_way_at_the_end(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that has begun before the end is acknowledged, and the stop is a clean one."""
    begun, go_on = threading.Event(), threading.Event()
    flush = os.fdatasync

    def slowly(descriptor: int) -> None:
        begun.set()
        go_on.wait()
        flush(descriptor)

    monkeypatch.setattr(os, "fdatasync", slowly)
    write = asyncio.create_task(fs.add())
    await asyncio.to_thread(begun.wait)
    late = asyncio.create_task(fs.driver._journal.close())  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    go_on.set()
    job_id = await write
    await late
    assert (fs.directory / "journal" / "CLEAN").exists()
    await fs.driver.close()
    fs.driver = await opened(fs.directory)
    assert [one.new.id for one in await fs.dump()] == [job_id]


async def test_a_write_before_the_start_is_refused(tmp_path: Path) -> None:
    """A write to a storage that is not open yet is refused, and does not keep the storage from being opened."""
    driver = FsDriver(tmp_path / "storage")
    instance = Instance(driver, driver.directory)
    with pytest.raises(Unavailable, match="not open"):
        await instance.add()
    await driver.start()
    await instance.add()
    await driver.close()


async def test_a_stop_without_the_directory(fs: Instance) -> None:
    """A storage whose directory was removed can be closed."""
    await fs.add()
    shutil.rmtree(fs.directory)
    await fs.driver.close()


@pytest.mark.parametrize("call", ["write", "ping"])
async def test_a_directory_that_is_removed(fs: Instance, call: str) -> None:
    """A write to a removed journal is not acknowledged, and `ping` reports the removal."""
    kept = await fs.add(args=b"1")
    shutil.rmtree(fs.directory)
    with pytest.raises(Unavailable, match="the journal was removed"):
        await (fs.add() if call == "write" else fs.driver.ping())
    with pytest.raises(Unavailable, match="restart composerd"):
        await fs.driver.ping()
    assert await fs.args(kept) == b"1"
    await fs.driver.close()


async def test_no_write_is_accepted_after_one_that_cannot_be_cut_back(
    fs: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No write is accepted after a torn write that cannot be cut off; a restart cuts it off."""
    await fs.add()
    before = await fs.dump()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC, after=40))
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        with pytest.raises(Unavailable, match="cut back"):
            await fs.add()
    with pytest.raises(Unavailable):
        await fs.add()
    await fs.reopen()
    assert await fs.dump() == before
    await fs.add()


async def test_a_new_segment_that_finds_no_room(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room for a new segment refuses writes, and accepts them when there is room."""
    monkeypatch.setattr(fs.driver._journal, "_segment_size", 1)  # type: ignore[attr-defined]
    first = await fs.add()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(StorageFull):
            await fs.add()
    second = await fs.add()
    before = await fs.dump()
    assert [one.new.id for one in before] == [first, second]
    await fs.reopen()
    assert await fs.dump() == before
    assert await fs.args(first) == await fs.args(second) == b'{"n":1}'


async def crashed(directory: Path, copy: Path) -> Path:
    """Copy a storage as a crash would leave it, and return its last segment."""
    async with instance_of("fs", directory) as fs:
        await add_jobs_in_every_state(fs)
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("CLOCK.tmp"))  # as a kill would leave it
    return max((copy / "journal").glob("*.log"))


def frame_starts(segment: Path) -> list[int]:
    """Return the offsets of the frames of a segment."""
    data = segment.read_bytes()
    starts, at = [], SEGMENT_HEADER
    while at < len(data):
        starts.append(at)
        payloads, records = (int.from_bytes(data[at + n : at + n + 4], "little") for n in (4, 8))
        at += 28 + payloads + records
    assert at == len(data)
    return starts


@pytest.mark.usefixtures("unsynced")
async def test_a_torn_end_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A last write that a crash has torn at any byte is cut off and logged, and all acknowledged jobs are stored."""
    segment = await crashed(tmp_path / "storage", tmp_path / "copy")
    data = segment.read_bytes()
    last = frame_starts(segment)[-1]
    segment.write_bytes(data[:last])
    driver = await opened(tmp_path / "copy")
    whole = [one async for one in driver.dump()]
    await driver.close()
    for cut in range(last + 1, len(data)):
        (segment.parent / "CLEAN").unlink()
        segment.write_bytes(data[:cut])
        caplog.clear()
        driver = await opened(tmp_path / "copy")
        assert [one async for one in driver.dump()] == whole
        assert f"cut off at byte {last} of {cut}" in caplog.text
        await driver.close()
        assert segment.stat().st_size == last


@pytest.mark.parametrize("marker", [b"", b'{"segm', b"\0" * 30])
async def test_a_damaged_marker_counts_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, marker: bytes) -> None:
    """A marker of a clean stop that cannot be read does not stop a start; the log says that a crash is assumed."""
    driver = await opened(tmp_path / "storage")
    await driver.enqueue([[NewJob(id=uuid4(), type="t")]])
    before = [one async for one in driver.dump()]
    await driver.close()
    (tmp_path / "storage" / "journal" / "CLEAN").write_bytes(marker)

    driver = await opened(tmp_path / "storage")

    assert [one async for one in driver.dump()] == before
    assert "the marker of a clean stop is damaged; starting as after a crash" in caplog.text
    await driver.close()


async def test_a_marker_on_a_bad_block_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A marker whose block the disk cannot read does not stop a start either."""
    driver = await opened(tmp_path / "storage")
    await driver.close()
    reading = Directory.reading

    def bad(directory: Directory, name: str) -> Any:
        if name == "CLEAN":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return reading(directory, name)

    monkeypatch.setattr(Directory, "reading", bad)
    driver = await opened(tmp_path / "storage")
    assert "the marker of a clean stop is damaged; starting as after a crash" in caplog.text
    await driver.close()


async def test_a_marker_that_has_no_room_is_not_left_half_written(tmp_path: Path) -> None:
    """A stop that cannot write its marker leaves no file in its place, and the next start works."""
    driver = await opened(tmp_path / "storage")
    await driver.enqueue([[NewJob(id=uuid4(), type="t")]])
    before = [one async for one in driver.dump()]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # every write to a file fails, as on a full disk
    try:
        await driver.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    journal = tmp_path / "storage" / "journal"
    assert {one.suffix for one in journal.iterdir() if one.name != SECRET} == {".log", ".reserve"}
    driver = await opened(tmp_path / "storage")
    assert [one async for one in driver.dump()] == before
    await driver.close()


async def test_a_last_write_that_did_not_reach_the_disk_in_order(tmp_path: Path) -> None:
    """A last write with zeros or old bytes in the middle, as a crash may leave it, is cut off too."""
    segment = await crashed(tmp_path / "storage", tmp_path / "copy")
    data = segment.read_bytes()
    last = frame_starts(segment)[-1]
    for at in range(last, len(data)):
        torn = bytearray(data)
        torn[at] ^= 0xFF
        segment.write_bytes(torn)
        driver = await opened(tmp_path / "copy")
        await driver.close()
        assert segment.stat().st_size == last
        (segment.parent / "CLEAN").unlink()


@pytest.mark.usefixtures("unsynced")
async def test_damage_elsewhere_is_refused(tmp_path: Path) -> None:
    """A wrong byte anywhere before the last frame stops the start; the error names the file and the offset."""
    segment = await crashed(tmp_path / "storage", tmp_path / "copy")
    data = segment.read_bytes()
    starts = frame_starts(segment)
    for at in range(starts[-1]):
        damaged = bytearray(data)
        damaged[at] ^= 0x01
        segment.write_bytes(damaged)
        with pytest.raises(StorageUnusable) as refused:
            await opened(tmp_path / "copy")
        where = max((start for start in starts if start <= at), default=0)
        assert str(segment) in str(refused.value)
        assert f"at byte {where}" in str(refused.value)
        assert segment.read_bytes() == damaged


@pytest.mark.parametrize("cut", [1, 20])
async def test_after_a_clean_stop_nothing_may_be_missing(tmp_path: Path, cut: int) -> None:
    """After a clean stop a torn or missing last frame stops the start."""
    async with instance_of("fs", tmp_path / "storage") as fs:
        await add_jobs_in_every_state(fs)
    segment = next((tmp_path / "storage" / "journal").glob("*.log"))
    whole = segment.read_bytes()
    last = frame_starts(segment)[-1]
    for damaged in (whole[:-cut], whole[:last], whole + b"x" * cut):
        segment.write_bytes(damaged)
        with pytest.raises(StorageUnusable, match=str(segment)):
            await opened(tmp_path / "storage")
    segment.write_bytes(whole)
    await (await opened(tmp_path / "storage")).close()


async def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    """A missing segment stops the start, and the error names it."""
    async with instance_of("fs", tmp_path / "storage") as fs:
        fs.driver._journal._segment_size = 1  # type: ignore[attr-defined]
        for _ in range(3):
            await fs.add()
    (tmp_path / "storage" / "journal" / "00000002.log").unlink()
    with pytest.raises(StorageUnusable, match=r"00000002\.log"):
        await opened(tmp_path / "storage")


async def test_a_newer_format_is_refused(fs: Instance) -> None:
    """A storage of a newer format version is refused; the error asks for a newer composerd."""
    await fs.add()
    await fs.driver.close()
    segment = next((fs.directory / "journal").glob("*.log"))
    data = bytearray(segment.read_bytes())
    data[8] += 1
    data[28:32] = zlib.crc32(data[:28]).to_bytes(4, "little")
    segment.write_bytes(data)
    with pytest.raises(StorageUnusable, match="format version 2"):
        await opened(fs.directory)


async def test_one_process_at_a_time_uses_a_directory(fs: Instance) -> None:
    """A second process or driver on a directory in use gets an error that names the process that uses it."""
    with pytest.raises(StorageUnusable, match=f"process {os.getpid()}"):
        await opened(fs.directory)
    await fs.add()
    await fs.reopen()


async def test_a_claim_with_unreadable_args_can_be_repeated(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim whose args cannot be read is an error; the claim stands, and can be repeated with its token."""
    job_id = await fs.add(args=LARGE)
    token = fs.id()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing(errno.EIO))
        with pytest.raises(ComposerdError):
            await fs.claim(BUILD, token=token)
    assert await fs.state(job_id) is JobState.RUNNING
    claimed = await fs.claim(BUILD, token=token)
    assert claimed is not None
    assert claimed.job_id == job_id
    assert claimed.args == LARGE
