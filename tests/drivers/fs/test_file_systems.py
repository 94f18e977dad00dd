"""The driver on real file systems: on ext4, xfs and btrfs, each on a loop device, and on one through FUSE."""

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from composerd.directory import Directory
from composerd.errors import OutcomeUnknown, StorageFull, Unavailable

from ..conftest import Instance, opened
from .fuse import failing_disk
from .mounts import KINDS, make_image, mounted, run
from .small_disks import fill
from .test_faults import LARGE


@pytest.mark.parametrize("kind", KINDS)
async def test_a_start_without_room_to_write_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """After a failed flush, a start on a full disk reads what the disk has, and goes on behind that."""

    def full(*_args: Any) -> BinaryIO:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(*_args: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    lost = b'"the block that fails' + LARGE * 100 + b'"'
    with failing_disk(make_image(kind, tmp_path / "image")) as disk, mounted(disk.path, tmp_path / "mnt") as at:
        fs = Instance(await opened(at / "storage"), at / "storage")
        acknowledged = [await fs.add(args=LARGE) for _ in range(3)]
        disk.fail_at(lost[:20])
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", failing)
            with pytest.raises(OutcomeUnknown):
                await fs.add(args=lost)
        assert disk.has_failed
        with monkeypatch.context() as patch:
            patch.setattr(Directory, "create", full)
            await fs.reopen()
        acknowledged += [await fs.add(args=LARGE) for _ in range(3)]
        copy = disk.copy(tmp_path / "copy")
        await fs.driver.close()
    with mounted(copy, tmp_path / "copied") as at:
        fs = Instance(await opened(at / "storage"), at / "storage")
        assert [await fs.args(job_id) for job_id in acknowledged] == [LARGE] * 6
        await fs.driver.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_found_no_room_is_not_there_later(tmp_path: Path, kind: str) -> None:
    """A submission that a full disk refused is there neither after a power cut nor after a crash."""
    with failing_disk(make_image(kind, tmp_path / "image")) as disk, mounted(disk.path, tmp_path / "mnt") as at:
        fs = Instance(await opened(at / "storage"), at / "storage")
        stored, refused = {await fs.add(args=LARGE)}, 0
        fill(at)
        for size in (100_000, 5_000, 100, 300_000, 1):
            try:
                stored.add(await fs.add(args=b'"%b"' % os.urandom(size).hex().encode()))
            except StorageFull:
                refused += 1
        assert refused
        copy = disk.copy(tmp_path / "copy")
        fs.driver._journal.broken = "the server crashes"  # type: ignore[attr-defined]  # so no marker is left
        await fs.reopen()
        assert {one.new.id for one in await fs.dump()} == stored
        await fs.driver.close()
    with mounted(copy, tmp_path / "copied") as at:
        fs = Instance(await opened(at / "storage"), at / "storage")
        assert {one.new.id for one in await fs.dump()} == stored
        await fs.driver.close()


async def test_a_stop_on_a_file_system_that_has_shut_down(tmp_path: Path) -> None:
    """A stop succeeds although nothing on the file system can be read any more, not even the file LOCK."""
    with mounted(make_image("xfs", tmp_path / "image"), tmp_path / "mnt") as at:
        fs = Instance(await opened(at / "storage"), at / "storage")
        job_id = await fs.add()
        run("xfs_io", "-x", "-c", "shutdown", at)
        with pytest.raises(Unavailable):
            await fs.add()
        await fs.driver.close()
    with mounted(tmp_path / "image", tmp_path / "mnt") as at:
        fs = Instance(await opened(at / "storage"), at / "storage")
        assert [one.new.id for one in await fs.dump()] == [job_id]
        await fs.driver.close()


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_new_files(tmp_path: Path, kind: str) -> None:
    """A directory that was open before shows the files that were made, and renamed, since it was listed last."""
    with mounted(make_image(kind, tmp_path / "image"), tmp_path / "mnt") as at:
        directory = Directory(at)
        directory.open()
        directory.write("first", b"1")
        for name in ("second", "first"):
            directory.write(name, b"2")
            assert {"first", name} <= set(directory.names())
        directory.close()
