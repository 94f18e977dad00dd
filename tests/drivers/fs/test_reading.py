"""Reading a journal while another driver writes to it, begins segments, takes checkpoints and removes files."""

import asyncio
import time
from pathlib import Path

import pytest

from composerd.errors import StorageInUse, Unavailable
from composerd.models import JobState
from composerd_fs import FsDriver
from composerd_fs.journal.files import JournalFiles

from ..conftest import Instance, instance_of
from .test_checkpoint import KIB, quiet


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a segment after 16 KiB, and a checkpoint whenever the journal has grown by 32 KiB."""
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 16 * 1024)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 32 * 1024)


@pytest.mark.parametrize("moment", ["look", "hold"])
async def test_a_journal_that_is_compacted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """However often the journal is compacted while it is read, it is whole, and has what was acknowledged before."""
    root = tmp_path / "storage"
    times = [0]

    def compacted_after(files: JournalFiles) -> None:
        """Return from the method once the next checkpoint has made files unnecessary, three times in all."""
        method(files)
        if times[0] < 3:
            times[0] += 1
            before = names()
            while before <= names():
                time.sleep(0.001)

    def names() -> set[str]:
        return {path.name for path in (root / "journal").glob("*.checkpoint")}

    method = getattr(JournalFiles, moment)
    async with instance_of("fs", root) as fs:
        kept = [await fs.add(args=KIB) for _ in range(20)]
        await churn(fs, 50)
        monkeypatch.setattr(JournalFiles, moment, compacted_after)

        async def read() -> None:
            for _ in range(3):
                found = await FsDriver(root).check()
                assert found.problems == ()
                assert found.jobs[JobState.READY] >= len(kept)
                reader = FsDriver(root)
                await reader.start_reading()
                assert None not in await reader.get(kept)
                await reader.close()

        reading = asyncio.create_task(read())
        while not reading.done():
            await churn(fs, 1)
        await reading
        await quiet(fs)
    assert times == [3]


async def test_files_that_are_removed_later(tmp_path: Path) -> None:
    """A reader shows figures of the storage although a server has removed the files that it has read."""
    root = tmp_path / "storage"
    async with instance_of("fs", root) as fs:
        await churn(fs, 50)
        await quiet(fs)
        (checkpoint,) = (root / "journal").glob("*.checkpoint")
        reader = FsDriver(root)
        await reader.start_reading()
        while checkpoint.exists():
            await churn(fs, 10)
        assert (await reader.info()).details["last checkpoint"] == checkpoint.name
        await reader.close()


async def churn(fs: Instance, jobs: int) -> None:
    """Submit, finish and delete jobs."""
    for _ in range(jobs):
        job_id = await fs.add(args=KIB, priority=9)
        await fs.end(job_id, KIB)
        await fs.delete(job_id)


async def test_alone(tmp_path: Path) -> None:
    """A reader that is alone keeps writers out, not other readers, and does not begin beside a writer."""
    root = tmp_path / "storage"
    async with instance_of("fs", root):
        reader = FsDriver(root)
        with pytest.raises(StorageInUse):
            await reader.start_reading(alone=True)
        await reader.close()
    readers = [FsDriver(root), FsDriver(root)]
    for reader in readers:
        await reader.start_reading(alone=True)
    writer = FsDriver(root)
    with pytest.raises(StorageInUse):
        await writer.start()
    await writer.close()
    for reader in readers:
        await reader.close()
    async with instance_of("fs", root) as fs:
        await fs.add()


async def test_a_reader_accepts_no_writes(tmp_path: Path) -> None:
    """A driver that was opened for reading refuses every write."""
    root = tmp_path / "storage"
    async with instance_of("fs", root) as fs:
        job_id = await fs.add()
    reader = FsDriver(root)
    await reader.start_reading()
    with pytest.raises(Unavailable):
        await reader.cancel([job_id])
    await reader.close()
