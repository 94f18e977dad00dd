"""The bytes of the format do not change: a history writes the files that are stored here, and they are read as before.

`written/` has the files after a history, and after a checkpoint and a compaction, each with what was stored then. They
are replaced only together with the version of the format. `compacted` is from a version whose checkpoints also had
shapes that no job had any more.
"""

import asyncio
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from composerd.driver.clock import Clock
from composerd.models import (
    Artifact,
    Attachment,
    Claim,
    Key,
    NewJob,
    OnDependencyFailure,
    Outcome,
    Touch,
)
from composerd_fs import FsDriver, MemoryDriver
from composerd_fs.journal.clock_file import CLOCK
from composerd_fs.journal.secret_file import SECRET

from ..conftest import opened

WRITTEN = Path(__file__).with_name("written")
KEYS = tuple(Key(channel, "t", arch) for channel in ("", "c") for arch in (None, "x"))
LARGE = b'"' + b"x" * 98 + b'"'


class Time:
    """The time of all drivers, in microseconds since the epoch."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000_000

    def pass_by(self, seconds: int) -> None:
        """Let time pass."""
        self.now += seconds * 1_000_000


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Let nothing in the files depend on chance or on the clock, and let segments be small."""
    time = Time()
    chance = random.Random(1)
    for name in ("now", "elapsed"):
        monkeypatch.setattr(Clock, name, lambda _clock: time.now)
    monkeypatch.setattr(os, "urandom", chance.randbytes)
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 1500)
    return time


def job(number: int, *dependencies: int, **fields: Any) -> NewJob:
    """Return a job of a submission."""
    ids = tuple(UUID(int=one) for one in dependencies)
    return NewJob(id=UUID(int=number), type="t", dependencies=ids, **fields)


async def claim(driver: Any, number: int, **fields: Any) -> UUID:
    """Claim a job with a token of this number."""
    token = UUID(int=number)
    assert (await driver.claim([Claim(token, KEYS, 30.0, **fields)], 2**30)).items != [None]
    return token


async def history(driver: Any, time: Time) -> None:
    """Cause each kind of entry of the journal."""
    await driver.enqueue([[job(1, args=LARGE, arch="x", priority=1, idempotency_key="k", fingerprint=b"f" * 16)]])
    await driver.enqueue([[job(2, args=b"{}", channel="c", retry_on_failure=1, retry_backoff=2.0), job(3, 1, 2)]])
    await driver.enqueue([[job(4, 2, on_dependency_failure=OnDependencyFailure.FAIL, retention=60.0)]])
    first = await claim(driver, 101, worker_id=UUID(int=900))
    for name in "ab":
        await driver.attach([Attachment(first, Artifact(name, 7, "ab" * 32, f"1/1/{name}"))])
    time.pass_by(1)
    await driver.finish([Outcome(first, LARGE, failed=False)])
    for number in (102, 103):
        token = await claim(driver, number, handover=5.0, worker_id=UUID(int=901))
        time.pass_by(3)
        await driver.finish([Outcome(token, b"[]", failed=True)])
        time.pass_by(3)
        await driver.advance(100)
    await driver.enqueue([[job(5, args=LARGE, max_retries=0, timeout=20.0), job(6, not_before=600.0, args=LARGE)]])
    for number in (104, 105):
        token = await claim(driver, number, handover=2.0)
        await driver.release([token])
    await claim(driver, 106, handover=2.0)
    time.pass_by(3)
    await driver.advance(100)
    await driver.touch([Touch(await claim(driver, 107))])  # no entry says that, but the timeout is counted
    time.pass_by(25)
    await driver.advance(100)
    await driver.enqueue([[job(7), job(8, 7), job(9, 8, args=LARGE)]])
    await driver.cancel([UUID(int=8)])
    await driver.delete([UUID(int=9)])
    other = MemoryDriver.from_url("memory:")
    await other.start()
    await other.enqueue([[job(10, args=LARGE, priority=2), job(11, 10)]])
    await other.attach([Attachment(await claim(other, 108), Artifact("c", 7, "cd" * 32, "10/1/c"))])
    await driver.load([one async for one in other.dump()])
    await driver.purge(100)


async def compacted(driver: Any) -> None:
    """Write and delete jobs until a checkpoint has been taken and a segment compacted, then write some more."""
    number = 1000
    await driver.enqueue([[job(number, priority=5)]])  # stays, so that every checkpoint has the shape of the others
    await driver.cancel([UUID(int=number)])
    while driver._compactor.checkpoint is None:
        number += 1
        await driver.enqueue([[job(number, args=LARGE, priority=5)]])
        await driver.cancel([UUID(int=number)])
        await driver.delete([UUID(int=number)])
        while (task := driver._compactor._task) is not None:
            await asyncio.wait([task])
    await driver.enqueue([[job(12, 1, args=LARGE)]])


def values(one: Any) -> Any:
    """Return a stored job as plain values in the order of its fields, whatever their names."""
    if isinstance(one, msgspec.Struct):
        return [values(getattr(one, name)) for name in one.__struct_fields__]
    if isinstance(one, list | tuple):
        return [values(part) for part in one]
    if isinstance(one, bytes):
        return one.hex()
    return one if isinstance(one, int | float | None) else str(one)


async def stored(driver: FsDriver) -> list[Any]:
    """Return everything that is stored, as in the files `stored.json`."""
    return [values(one) async for one in driver.dump()]


async def compare(driver: FsDriver, written: Path) -> None:
    """Close a storage, and compare what is stored and its files with those that were written before."""
    assert await stored(driver) == json.loads((written / "stored.json").read_text())
    await driver.close()
    journal = (driver.directory / "journal").iterdir()
    files = {
        path.name: path.read_bytes()
        for path in journal
        if path.suffix != ".reserve" and path.name not in (CLOCK, SECRET)
    }
    assert files == {path.name: path.read_bytes() for path in (written / "journal").iterdir()}


async def test_a_history_writes_the_same_bytes(tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of entry, a checkpoint and a compaction have the bytes that they had before."""
    # When this history was written, a job could depend on one of another channel.
    monkeypatch.setattr("composerd.driver.submissions._check_dependencies", lambda *_: None)
    driver = await opened(tmp_path)
    await history(driver, time)
    await compare(driver, WRITTEN / "history")
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 6000)
    driver = await opened(tmp_path)
    await compacted(driver)
    await compare(driver, WRITTEN / "compacted_without_unused_shapes")


@pytest.mark.usefixtures("time")
@pytest.mark.parametrize("written", ["history", "compacted", "compacted_without_unused_shapes"])
async def test_stored_bytes_are_read(tmp_path: Path, written: str) -> None:
    """A storage that was written before has the same jobs, and goes on where it ended."""
    shutil.copytree(WRITTEN / written / "journal", tmp_path / "journal")
    driver = await opened(tmp_path)
    assert await stored(driver) == json.loads((WRITTEN / written / "stored.json").read_text())
    await driver.enqueue([[job(2000)]])
    await driver.close()
    driver = await opened(tmp_path)
    assert [one.new.id async for one in driver.dump()][-1] == UUID(int=2000)
    await driver.close()
