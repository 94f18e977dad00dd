"""A power cut leaves of each file what was brought to the disk, and only such names; nothing acknowledged is lost."""

import asyncio
import copy
import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from composerd.directory import Directory
from composerd.errors import OutcomeUnknown, StorageFull
from composerd_fs import FsDriver

from ..conftest import Instance, opened
from . import kill_me
from .test_faults import LARGE
from .test_kill import Known, compare

IMAGES = int(os.environ.get("POWER_CUTS", "90"))
"""The number of moments that are tried. Set `POWER_CUTS=200` for a long run."""


class Disk:
    """The files on stable storage, as the replaced `fsync` and `fdatasync` have seen them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.contents: dict[int, bytes] = {}
        """The contents of files, by inode, when they were last brought to the disk."""
        self.names: dict[Path, dict[str, int]] = {}
        """The names in directories, with their inodes, when the directories were last brought to the disk."""
        self.lost: dict[int, range] = {}
        """The bytes of files that a failed write did not bring to the disk, by inode."""
        self._held: dict[int, int] = {}
        """Files that are kept open, so that no other file gets their inode."""

    def noticing(self, call: Callable[[int], None]) -> Callable[[int], None]:
        """Return a system call that does the same, and notices what is on stable storage after it."""

        def made(descriptor: int) -> None:
            with self.lock:
                call(descriptor)
                path = Path(f"/proc/self/fd/{descriptor}").readlink()
                if path.is_dir():
                    self.names[path] = inodes(path)
                else:
                    inode = os.fstat(descriptor).st_ino
                    content = bytearray(Path(f"/proc/self/fd/{descriptor}").read_bytes())
                    for at in self.lost.get(inode, ()):
                        content[at] = 0
                    self.contents[inode] = bytes(content)
                    if inode not in self._held:
                        self._held[inode] = os.dup(descriptor)

        return made

    def failing(self, descriptor: int, *_length: int) -> None:
        """Do what an fdatasync does whose write fails. The kernel takes what it has in memory for written from then on.

        It may do so even if the same bytes are written again.
        """
        inode = os.fstat(descriptor).st_ino
        self.lost[inode] = range(len(self.contents[inode]), os.fstat(descriptor).st_size)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._held.values():
            os.close(descriptor)

    def image(self, journal: Path, kind: int) -> dict[str, bytes]:
        """Return the files of the journal after a power cut at this moment.

        Their names are those of this moment, those on stable storage, or those of the latter that are not removed.
        """
        now, certain = inodes(journal), self.names[journal]
        names = (now, certain, {name: inode for name, inode in certain.items() if name in now})[kind]
        return {name: self.contents.get(inode, b"") for name, inode in names.items()}


def inodes(directory: Path) -> dict[str, int]:
    """Return the names in a directory, and their inodes."""
    return {entry.name: entry.inode() for entry in os.scandir(directory)}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Notice what is brought to the disk. Segments are small, so that a compaction is always under way."""
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 32 * 1024)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 32 * 1024)
    monkeypatch.setattr("composerd_fs.journal.compactor.JOBS_AT_ONCE", 5)
    noticed = Disk()
    monkeypatch.setattr("os.fsync", noticed.noticing(os.fsync))
    monkeypatch.setattr("os.fdatasync", noticed.noticing(os.fdatasync))
    yield noticed
    noticed.close()


@pytest.mark.timeout(max(120, IMAGES * 5))
async def test_a_power_cut_at_any_moment(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start after a power cut at any moment of work and compaction finds everything that was acknowledged."""
    journal = tmp_path / "storage" / "journal"
    known = Known()
    monkeypatch.setattr(kill_me, "say", lambda *words: known.hear(" ".join(map(str, words))))
    chance = random.Random(20261124)
    driver = FsDriver(tmp_path / "storage")
    await driver.start()
    ended: list[Any] = []
    work = [asyncio.create_task(kill_me.work(driver, chance, ended)) for _ in range(kill_me.WORKERS)]
    cuts: list[tuple[dict[str, bytes], Known]] = []
    while len(cuts) < IMAGES:
        for _ in range(chance.randrange(200, 600)):
            await asyncio.sleep(0)
        with disk.lock:
            cuts.append((disk.image(journal, len(cuts) % 3), copy.deepcopy(known)))
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    assert driver._compactor.checkpoint is not None
    await driver.close()
    monkeypatch.undo()
    for number, (files, then) in enumerate(cuts):
        after = tmp_path / f"cut{number}"
        (after / "journal").mkdir(parents=True)
        for name, content in files.items():
            (after / "journal" / name).write_bytes(content)
        await compare(after, then)


async def test_a_power_cut_after_a_failed_flush_and_a_restart(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that is acknowledged after a failed flush and a restart is on the disk; lost data is not read."""
    fs = Instance(await opened(tmp_path / "storage"), tmp_path / "storage")
    acknowledged = [await fs.add(args=LARGE) for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", disk.failing)
        patch.setattr(os, "ftruncate", disk.failing)  # the remains are not cut off either
        with pytest.raises(OutcomeUnknown):
            await fs.add(args=LARGE)
    await fs.reopen()
    acknowledged += [await fs.add(args=LARGE) for _ in range(3)]
    image = disk.image(tmp_path / "storage" / "journal", 1)
    await fs.driver.close()

    after = tmp_path / "after" / "journal"
    after.mkdir(parents=True)
    for name, content in image.items():
        (after / name).write_bytes(content)
    fs = Instance(await opened(after.parent), after.parent)
    assert [await fs.args(job_id) for job_id in acknowledged] == [LARGE] * 6
    await fs.driver.close()


async def test_a_new_segment_that_is_given_up(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment whose name finds no room on the disk is not there after a power cut, and the one before it goes on."""
    fs = Instance(await opened(tmp_path / "storage"), tmp_path / "storage")
    journal = fs.driver._journal  # type: ignore[attr-defined]
    await fs.add(args=LARGE)
    sync = Directory.sync
    failed: list[str] = []

    def once(directory: Directory, below: str = "") -> None:
        sync(directory, below)
        if not failed:
            failed.append(below)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Directory, "sync", once)
    with pytest.raises(StorageFull):
        await journal.rotate()
    await fs.add(args=LARGE)
    image = disk.image(tmp_path / "storage" / "journal", 1)
    await fs.driver.close()
    assert [name for name in image if name.endswith(".log")] == ["00000001.log"]
