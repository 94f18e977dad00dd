"""The driver on real file systems: on ext4, xfs and btrfs, each on a loop device."""

from pathlib import Path

import pytest

from ..conftest import instance_of
from .mounts import KINDS, mounted_new


@pytest.mark.parametrize("kind", KINDS)
async def test_jobs_survive_a_restart(tmp_path: Path, kind: str) -> None:
    """A job is there after a stop and a start, on each of the file systems."""
    with mounted_new(kind, tmp_path) as at:
        async with instance_of("fs", at / "storage") as fs:
            job_id = await fs.add()
            await fs.reopen()
            assert (await fs.get(job_id)).id == job_id
