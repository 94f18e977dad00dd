"""The page about the format is true: a reader written from it alone agrees with the driver. And no byte can be wrong unnoticed."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from composerd.errors import StorageUnusable
from composerd_fs import FsDriver

from ..conftest import instance_of, opened
from .test_checkpoint import KIB, churn, quiet, small

__all__ = ["small"]

EVERY_BYTE = "EVERY_BYTE" in os.environ
"""Cut the journal at every byte of its last 64 KiB; else at each of the last KiB, and at every 97th before."""


def frames(path: Path) -> Any:
    """The records of a file, with where each frame's payloads begin."""
    data = path.read_bytes()
    salt, at = data[16:28], 32
    assert (data[:8], zlib.crc32(data[:28])) == (b"cdjrnl\r\n", int.from_bytes(data[28:32], "little"))
    while at < len(data):
        magic, payloads, records, _, content, check = struct.unpack_from("<4sIIQII", data, at)
        body = data[at + 28 : at + 28 + payloads + records]
        assert (magic, check) == (b"cdF\n", zlib.crc32(data[at : at + 24], zlib.crc32(salt)))
        assert content == zlib.crc32(body)
        yield at + 28, msgspec.msgpack.decode(body[payloads:])
        at += 28 + payloads + records


def payload(directory: Path, number: int, begin: int, place: Any) -> Any:
    """A payload, from where a record says it is."""
    if isinstance(place, int):
        place = (number, begin + (place >> 32), (place & 0xFFFFFFFF) + 4)
    if not isinstance(place, tuple | list):
        return place
    data = (directory / f"{place[0]:08}.log").read_bytes()[place[1] : place[1] + place[2]]
    assert zlib.crc32(data[4:]) == int.from_bytes(data[:4], "little")
    return data[4:]


def read(directory: Path) -> dict[bytes, list[Any]]:
    """State (as far as it was recorded), args and result of each job."""
    jobs: dict[bytes, list[Any]] = {}
    tokens: dict[bytes, bytes] = {}
    first = max((int(path.stem) for path in directory.glob("*.checkpoint")), default=0)
    logs = sorted(path for path in directory.glob("*.log") if int(path.stem) >= first)
    for path in [*directory.glob(f"{first:08}.checkpoint"), *logs]:
        for begin, records in frames(path):
            here = (int(path.stem), begin)
            for kind, *of in records:
                if kind == 1:
                    jobs |= {job[0]: ["stored", (*here, job[4]), (*here, None)] for job in of[1]}
                elif kind == 2:
                    tokens[of[2]], jobs[of[1]][0] = of[1], "running"
                elif kind == 4:
                    jobs[tokens[of[1]]][::2] = ["ended", (*here, of[2])]
                elif kind == 7:
                    jobs = {job_id: job for job_id, job in jobs.items() if job_id not in of[0]}
                elif kind == 11:
                    jobs[of[0][0]] = [STATES.get(of[3], "ended"), (*here, of[11]), (*here, of[12])]
                    tokens |= {attempt[0]: of[0][0] for attempt in of[13]}
                elif kind == 14:
                    for job in map(msgspec.msgpack.decode, of[0]):
                        jobs[job[2]] = ["ended", (*here, job[6]), (*here, job[7])]
                elif kind == 13:
                    moved = [None, *((*here, place) for place in of[1:])]
                    jobs[of[0]] = [new if new and new[2] is not None else old for old, new in zip(jobs[of[0]], moved)]  # noqa: B905
    return {job_id: [job[0], *(payload(directory, *place) for place in job[1:])] for job_id, job in jobs.items()}


STATES = {"waiting": "stored", "ready": "stored", "running": "running"}


@pytest.mark.usefixtures("small")
async def test_a_reader_written_from_the_page(tmp_path: Path) -> None:
    """It finds the same jobs, states, args and results, in segments and in a checkpoint, before and after a compaction."""
    async with instance_of("fs", tmp_path / "storage") as fs:
        for number in range(4):
            await fs.add(args=b"%d" % number * 60, not_before=1e6)
            await churn(fs, 60, live=20)
            await fs.add(args=b"[]")
            await fs.take()
            await quiet(fs)
            found = read(tmp_path / "storage" / "journal")
            stored = await fs.dump()
            assert len(found) == len(stored)
            for job in stored:
                state = STATES.get(job.job.state.value, "ended")
                assert found[job.new.id.bytes] == [state, job.new.args, job.result]


async def small_journal(root: Path) -> list[tuple[int, Any]]:
    """A closed storage with a short journal; where each flush ended, and what was stored then."""
    ends: list[tuple[int, Any]] = []
    journal = root / "journal" / "00000001.log"
    async with instance_of("fs", root) as fs:

        async def flushed() -> None:
            ends.append((journal.stat().st_size, await fs.dump()))

        await flushed()
        for number in range(3):
            job_id = await fs.add(args=KIB[: 60 + number])
            await flushed()
            token = await fs.take(job_id)
            await flushed()
            await fs.finish(token, b'"%d"' % number * 20)
            await flushed()
    return ends


@pytest.mark.usefixtures("unsynced")
async def test_every_byte_flipped(tmp_path: Path) -> None:
    """Each byte of a small journal, one at a time: refused with file and offset."""
    await small_journal(tmp_path / "storage")
    journal = tmp_path / "storage" / "journal" / "00000001.log"
    whole = journal.read_bytes()
    for at in range(len(whole)):
        journal.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        driver = FsDriver(tmp_path / "storage")
        with pytest.raises(StorageUnusable) as refused:
            await driver.start()
        await driver.close()
        assert str(journal) in str(refused.value)
    journal.write_bytes(whole)
    await (await opened(tmp_path / "storage")).close()


@pytest.mark.usefixtures("unsynced")
async def test_the_journal_cut_anywhere(tmp_path: Path) -> None:
    """As a crash leaves it, cut at any byte: the state is that of the last flush that is whole."""
    ends = []
    root = tmp_path / "storage"
    journal = root / "journal" / "00000001.log"
    async with instance_of("fs", root) as fs:
        ends.append((journal.stat().st_size, [one.new.id for one in await fs.dump()]))
        for number in range(36):
            await fs.add(args=b'"' + b"x" * (2000 if number < 33 else 400) + b'"')
            ends.append((journal.stat().st_size, [one.new.id for one in await fs.dump()]))
    (root / "journal" / "CLEAN").unlink()
    whole = journal.read_bytes()
    assert len(whole) > 64 * 1024
    cuts = range(len(whole), len(whole) - 64 * 1024, -1)
    tried = cuts if EVERY_BYTE else [*cuts[:1024], *cuts[1024::97]]
    for cut in tried:
        journal.write_bytes(whole[:cut])
        driver = FsDriver(root)
        await driver.start()
        known = [ids for end, ids in ends if end <= cut][-1]
        assert [job.id for job in driver._table.jobs.live.values()] == known
        (driver._journal).broken = "a crash leaves no marker"
        await driver.close()
