"""A reader written from the page about the format alone agrees with the driver, and every wrong byte is noticed."""

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
"""True to cut the journal at every byte of its last 64 KiB, instead of each of the last KiB and every 97th before."""


def frames(path: Path) -> Any:
    """Iterate over the frames of a file: the offset of the payloads, and the entries."""
    data = path.read_bytes()
    salt, at = data[16:28], 32
    assert (data[:8], zlib.crc32(data[:28])) == (b"cdjrnl\r\n", int.from_bytes(data[28:32], "little"))
    while at < len(data):
        magic, payloads, entries, _, content, check = struct.unpack_from("<4sIIQII", data, at)
        body = data[at + 28 : at + 28 + payloads + entries]
        assert (magic, check) == (b"cdF\n", zlib.crc32(data[at : at + 24], zlib.crc32(salt)))
        assert content == zlib.crc32(body)
        yield at + 28, msgspec.msgpack.decode(body[payloads:])
        at += 28 + payloads + entries


def payload(directory: Path, number: int, begin: int, location: Any) -> Any:
    """Return the payload that an entry contains or locates."""
    if isinstance(location, int):
        location = (number, begin + (location >> 32), (location & 0xFFFFFFFF) + 4)
    if not isinstance(location, tuple | list):
        return location
    segment, offset, length = location
    data = (directory / f"{segment:08}.log").read_bytes()[offset : offset + length]
    assert zlib.crc32(data[4:]) == int.from_bytes(data[:4], "little")
    return data[4:]


def read(directory: Path) -> dict[bytes, list[Any]]:
    """Return the state, as far as it was written, the args and the result of each job."""
    jobs: dict[bytes, list[Any]] = {}
    tokens: dict[bytes, bytes] = {}
    first = max((int(path.stem) for path in directory.glob("*.checkpoint")), default=0)
    logs = sorted(path for path in directory.glob("*.log") if int(path.stem) >= first)
    for path in [*directory.glob(f"{first:08}.checkpoint"), *logs]:
        for begin, entries in frames(path):
            here = (int(path.stem), begin)
            for kind, *of in entries:
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
                    moved = [None, *((*here, location) for location in of[1:])]
                    kept = zip(jobs[of[0]], moved, strict=True)
                    jobs[of[0]] = [new if new and new[2] is not None else old for old, new in kept]
    return {job_id: [job[0], *(payload(directory, *location) for location in job[1:])] for job_id, job in jobs.items()}


STATES = {"waiting": "stored", "ready": "stored", "running": "running"}


@pytest.mark.usefixtures("small")
async def test_a_reader_written_from_the_page(tmp_path: Path) -> None:
    """A reader that knows only the page finds jobs, states, args and results in segments and in a checkpoint."""
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
    """Make a closed storage with a short journal, and return where each flush ended and what was stored then."""
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
    """A journal with any one byte wrong is refused, and the error names the file."""
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
    """A journal that a crash has cut at any byte has the state of its last complete flush."""
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
