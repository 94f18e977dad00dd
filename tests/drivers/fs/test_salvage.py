"""Salvage: whatever is damaged, no job is stored in a state in which it would run although it may have ended."""

import asyncio
import shutil
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composerd.directory import Directory
from composerd.driver import Damage, StoredJob
from composerd.errors import StorageInUse, StorageUnusable
from composerd.models import AttemptState, JobState
from composerd_fs import FsDriver
from composerd_fs.journal import frames
from composerd_fs.journal.frames import FRAME_HEADER, SEGMENT_HEADER
from composerd_fs.salvage.jobs import Salvage
from composerd_fs.salvage.proof import combined

from ..conftest import instance_of, opened
from ..test_same_history import History
from .test_checkpoint import KIB, quiet


def salvaged(root: Path) -> tuple[dict[UUID, StoredJob], list[Damage]]:
    """Salvage a storage, and return the jobs and the damage."""
    found: list[StoredJob | Damage] = []
    with closing(Directory(root / "journal")) as directory:
        directory.open()
        salvage = Salvage(directory)
        found += salvage.read()
        for some in salvage.jobs():
            found += some
        found += salvage.lost()
    damage = [one for one in found if isinstance(one, Damage)]
    return {one.new.id: one for one in found if isinstance(one, StoredJob)}, damage


async def dumped(root: Path) -> dict[UUID, StoredJob]:
    """Return what an undamaged storage has."""
    reader = FsDriver(root)
    await reader.start_reading()
    found = {one.new.id: one async for one in reader.dump()}
    await reader.close()
    return found


def damage(root: Path, random: Random) -> tuple[str, str, int]:
    """Damage one of the files, and return how."""
    files = sorted([*(root / "journal").glob("*.log"), *(root / "journal").glob("*.checkpoint")])
    if not files:
        return "remove", "", 0
    path = random.choice(files)
    kind = random.choice(["flip", "flip", "flip", "zero", "cut", "remove"])
    data = bytearray(path.read_bytes())
    at = random.randrange(len(data)) if data else 0
    if kind == "remove":
        path.unlink()
        return kind, path.name, 0
    if kind == "flip" and data:
        data[at] ^= random.randrange(1, 256)
    elif kind == "zero":
        data[at : at + 100] = bytes(len(data[at : at + 100]))
    else:
        del data[at:]
    path.write_bytes(data)
    return kind, path.name, at


def some_steps(random: Random, count: int) -> Iterator[tuple[str, Any]]:
    """Yield steps of a history."""
    for _ in range(count):
        kind = random.choice(["enqueue", "enqueue", "claim", "finish", "attach", "release", "cancel", "delete", "time"])
        if kind == "enqueue":
            yield (
                kind,
                [
                    {
                        "dependencies": [random.randrange(40) for _ in range(random.randrange(3))],
                        "priority": random.randrange(2),
                        "arch": random.choice([None, "x"]),
                        "key": random.choice([None, None, "k", "l"]),
                        "fail": random.random() < 0.3,
                        "retry": random.randrange(2),
                        "later": random.random() < 0.2,
                    }
                    for _ in range(random.randrange(1, 4))
                ],
            )
        elif kind == "claim":
            yield kind, random.randrange(1, 4)
        elif kind == "finish":
            yield kind, [(random.randrange(40), random.random() < 0.3) for _ in range(2)]
        elif kind == "time":
            yield kind, random.choice([1.0, 11.0, 70.0])
        else:
            yield kind, random.randrange(40)


@pytest.mark.parametrize("seed", range(8))
async def test_any_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A job that is stored as unended has the state that it had; what is stored otherwise, or lost, is reported."""
    monkeypatch.setattr("composerd_fs.journal.writer.INLINE", 0)
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 700)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 2500)
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("os.fdatasync", lambda _: None)
    random = Random(seed)
    root = tmp_path / "storage"
    history = History(await opened(root))
    for kind, what in some_steps(random, 80):
        await history.do(kind, what)
    while history.driver._journal._end == SEGMENT_HEADER:  # nothing tells that frames before an empty segment are lost
        await history.do(*next(some_steps(random, 1)))
        while (task := history.driver._compactor._task) is not None:
            await asyncio.wait([task])
    await history.driver.close()
    truth = await dumped(root)
    found, reported = salvaged(root)
    assert (found, reported) == (truth, [])
    kept = {path: path.read_bytes() for path in (root / "journal").iterdir()}
    for _ in range(60):
        harm = [damage(root, random) for _ in range(random.choice([1, 1, 2]))]
        compare(truth, *salvaged(root), harm)
        for path, data in kept.items():
            path.write_bytes(data)


def compare(truth: dict[UUID, StoredJob], found: dict[UUID, StoredJob], reported: list[Damage], harm: Any) -> None:
    """Compare what was salvaged with what was there before the damage."""
    named = {one.job_id for one in reported}
    for job_id, job in found.items():
        before = truth.get(job_id)
        if not job.job.state.ended:
            assert before is not None, harm
            assert job.job.state is before.job.state, harm
            assert job.new.args == before.new.args, harm
            assert _running(job) == _running(before), harm
        elif before is None:
            assert None in named, harm  # it was deleted in a part that is lost
        elif (job.job.state, job.result, job.new.args) != (before.job.state, before.result, before.new.args):
            assert job_id in named, harm
    if None not in named:
        assert found.keys() | named >= truth.keys(), harm


def _running(job: StoredJob) -> list[UUID]:
    return [one.token for one in job.attempts if one.state is AttemptState.RUNNING]


@settings(max_examples=200)
@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_checksums_are_combined(first: bytes, second: bytes) -> None:
    """The CRC-32 of two pieces is found from theirs."""
    assert combined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


async def three_frames(root: Path) -> tuple[Path, list[int]]:
    """Store three jobs with args, each in a frame of its own; return the segment, and where the frames are."""
    async with instance_of("fs", root) as fs:
        for _ in range(3):
            await fs.add(args=KIB)
    path = root / "journal" / "00000001.log"
    data = path.read_bytes()
    head = frames.unpack_segment_header(data)
    assert head is not None
    begins = [SEGMENT_HEADER]
    while begins[-1] < len(data):
        frame = frames.unpack_frame_header(data[begins[-1] : begins[-1] + FRAME_HEADER], head.seed)
        assert frame is not None
        begins.append(begins[-1] + frame.size)
    return path, begins


@pytest.mark.parametrize("frame", [0, 1, 2])
async def test_a_damaged_header(tmp_path: Path, frame: int) -> None:
    """Whichever byte of the header of a frame is damaged, everything is whole."""
    path, begins = await three_frames(tmp_path)
    truth = await dumped(tmp_path)
    data = path.read_bytes()
    for at in range(4, FRAME_HEADER):
        path.write_bytes(flipped(data, begins[frame] + at))
        found, reported = salvaged(tmp_path)
        assert found == truth, at
        assert [one.problem for one in reported] == [
            f"{path} at byte {begins[frame]}: the header of the frame is damaged, and was made good"
        ] or frame == 2


async def test_a_damaged_header_of_a_file(tmp_path: Path) -> None:
    """Whichever byte of the header of a segment is damaged, everything is whole, also behind other damage."""
    path, begins = await three_frames(tmp_path)
    truth = await dumped(tmp_path)
    data = path.read_bytes()
    for at in range(SEGMENT_HEADER):
        path.write_bytes(flipped(data, at))
        found, reported = salvaged(tmp_path)
        assert found == truth, at
        assert [one.problem for one in reported] == [f"{path} at byte 0: the header is damaged, and was made good"]
    path.write_bytes(flipped(flipped(data, 5), begins[2] - 1))
    found, _ = salvaged(tmp_path)
    assert [one.job.state for one in found.values()] == [JobState.CANCELED, JobState.READY]


@pytest.mark.parametrize("at", [0, 2, 4, 500, 1024 + 3])
async def test_a_damaged_payload(tmp_path: Path, at: int) -> None:
    """A damaged byte in args, or in their checksum, concerns that job only; it is canceled, because it cannot run."""
    path, begins = await three_frames(tmp_path)
    truth = await dumped(tmp_path)
    data = path.read_bytes()
    path.write_bytes(flipped(data, begins[1] + FRAME_HEADER + at))
    found, reported = salvaged(tmp_path)
    assert [one.job.state for one in found.values()] == [JobState.READY, JobState.CANCELED, JobState.READY]
    (first, second, third) = truth
    assert (found[first], found[third]) == (truth[first], truth[third])
    assert [(one.job_id, one.problem) for one in reported] == [
        (None, f"{path} at byte {begins[1]}: a payload in the frame is damaged"),
        (second, "its args are damaged or missing, so it is stored as canceled"),
    ]


async def test_a_damaged_entry(tmp_path: Path) -> None:
    """A job whose submission is damaged is lost and named; jobs before it are canceled, and later ones are whole."""
    path, _ = await three_frames(tmp_path)
    first, second, third = await dumped(tmp_path)
    data = path.read_bytes()
    path.write_bytes(flipped(data, data.index(second.bytes) - 7))  # the time of the submission
    found, reported = salvaged(tmp_path)
    assert {one: job.job.state for one, job in found.items()} == {first: JobState.CANCELED, third: JobState.READY}
    assert [(one.job_id, one.type, one.state, one.lost) for one in reported[1:]] == [
        (first, "build", "canceled", False),
        (second, "build", "submitted", True),
    ]


async def test_entries_that_remove_doubt(tmp_path: Path) -> None:
    """Behind a gap, an entry about a job removes the doubt; one without is canceled, with those that wait for it."""
    async with instance_of("fs", tmp_path) as fs:
        finished, released, claimed, silent = [await fs.add(args=KIB, priority=4 - n) for n in range(4)]
        waiting = await fs.add(silent)
        tokens = [await fs.take(finished), await fs.take(released)]
        damaged = await fs.add()
        await fs.finish(tokens[0])
        running = await fs.take(claimed)
        await fs.release(tokens[1])
        later = await fs.add()
        after = await fs.add(waiting)
    path = tmp_path / "journal" / "00000001.log"
    data = path.read_bytes()
    path.write_bytes(flipped(data, data.index(damaged.bytes)))
    found, reported = salvaged(tmp_path)
    assert {one: job.job.state for one, job in found.items()} == {
        finished: JobState.FINISHED,
        released: JobState.CANCELED,  # it may have been its last retry
        claimed: JobState.RUNNING,
        silent: JobState.CANCELED,
        waiting: JobState.CANCELED,
        later: JobState.READY,
        after: JobState.CANCELED,
    }
    assert _running(found[claimed]) == [running]
    assert {one.job_id for one in reported if one.job_id is not None and not one.lost} == {
        released, silent, waiting, after,
    }  # fmt: skip


@pytest.mark.parametrize("torn", [b"cdF\n torn", bytes(40)])
async def test_a_torn_write(tmp_path: Path, torn: bytes) -> None:
    """A write that a crash has interrupted is left out, and is no damage."""
    path, begins = await three_frames(tmp_path)
    truth = await dumped(tmp_path)
    (tmp_path / "journal" / "CLEAN").unlink()
    path.write_bytes(path.read_bytes() + torn)
    found, reported = salvaged(tmp_path)
    assert found == truth
    (one,) = reported
    assert one.harmless
    assert f"the last {len(torn)} bytes of {path}, from byte {begins[-1]} on" in one.problem


@pytest.mark.parametrize("lost", ["segment", "checkpoint", "end of the checkpoint", "old segment"])
async def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """Of a missing segment or a part of the checkpoint only what was in it is lost; doubtful jobs are canceled."""
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 8 * 1024)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 64 * 1024)
    async with instance_of("fs", tmp_path) as fs:
        ended = [await fs.add(args=KIB) for _ in range(40)]
        for job_id in ended[:20]:
            await fs.end(job_id, KIB)
        ready = [await fs.add(args=KIB) for _ in range(40)]
        await quiet(fs)
    truth = await dumped(tmp_path)
    journal = tmp_path / "journal"
    (checkpoint,) = journal.glob("*.checkpoint")
    if lost == "segment":
        (journal / f"{int(checkpoint.stem) + 1:08}.log").unlink()
    elif lost == "old segment":
        (journal / "00000001.log").unlink()
    elif lost == "checkpoint":
        checkpoint.unlink()
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    found, reported = salvaged(tmp_path)
    compare(truth, found, reported, lost)
    assert found
    states = [found[one].job.state for one in (*ended[20:], *ready) if one in found]
    if lost == "segment":
        assert [found[one] for one in ended[:20]] == [truth[one] for one in ended[:20]]
        assert set(states[:20]) == {JobState.CANCELED}
        assert states[-1] is JobState.READY
        assert f"{journal / f'{int(checkpoint.stem) + 1:08}.log'}: the segment is missing" in reported[0].problem
    if lost == "old segment":
        lacking = {one.job_id for one in reported}
        assert 0 < len(lacking) < 10
        assert all(found[one] == truth[one] for one in truth if one not in lacking)


@pytest.mark.parametrize("name", ["compacted", "compacted_without_unused_shapes", "history"])
async def test_journals_of_earlier_versions(tmp_path: Path, name: str) -> None:
    """A journal that an earlier version has written is copied whole by a backup and by a salvage."""
    root = tmp_path / "storage"
    shutil.copytree(Path(__file__).parent / "written" / name, root)
    for path in (root, root / "journal", *(root / "journal").iterdir()):
        path.chmod(0o700)
    truth = await dumped(root)
    assert truth
    assert salvaged(root) == (truth, [])
    (tmp_path / "copy").mkdir(mode=0o700)
    await FsDriver(root).backup(tmp_path / "copy")
    assert await dumped(tmp_path / "copy") == truth


async def test_what_cannot_be_salvaged(tmp_path: Path) -> None:
    """A storage in use, a missing one, and one of a newer format are errors."""
    root = tmp_path / "storage"
    with pytest.raises(StorageUnusable, match="there is no storage"):
        [one async for one in FsDriver(root).salvage()]
    async with instance_of("fs", root):
        with pytest.raises(StorageInUse):
            [one async for one in FsDriver(root).salvage()]
    path = root / "journal" / "00000001.log"
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[28:32] = zlib.crc32(data[:28]).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(StorageUnusable, match="has format version 2"):
        [one async for one in FsDriver(root).salvage()]


def flipped(data: bytes, at: int) -> bytes:
    """Return data with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
