"""The driver on real file systems: on ext4, xfs and btrfs, each on a loop device, and on one through FUSE."""

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from composerd.directory import Directory
from composerd.errors import OutcomeUnknown

from ..conftest import Instance, instance_of, opened
from .failing_disk import failing_disk
from .mounts import KINDS, make_image, mounted, mounted_new
from .test_faults import LARGE


@pytest.mark.parametrize("kind", KINDS)
async def test_jobs_survive_a_restart(tmp_path: Path, kind: str) -> None:
    """A job is there after a stop and a start, on each of the file systems."""
    with mounted_new(kind, tmp_path) as at:
        async with instance_of("fs", at / "storage") as fs:
            job_id = await fs.add()
            await fs.reopen()
            assert (await fs.get(job_id)).id == job_id


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
