"""Uploads into a directory that another server sweeps at the same time."""

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from composerd.artifacts.directory import DirectoryStore
from composerd.artifacts.files import Files
from composerd.directory import Directory
from composerd.models import Artifact


@pytest.mark.parametrize("levels", [1, 2])
async def test_a_directory_swept_before_its_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: int
) -> None:
    """A directory is created again if another server removes it before the upload's file is in it."""
    files = Files(DirectoryStore(tmp_path))
    job_id = uuid4()
    job = tmp_path / str(job_id)
    sync = Directory.sync
    swept: list[list[Path]] = []

    def sweep(directory: Directory, below: str = "") -> None:
        sync(directory, below)
        empty = [job / "1", job][-levels:]
        if not swept and empty[0].is_dir():
            for one in empty:
                one.rmdir()
            swept.append(empty)

    monkeypatch.setattr(Directory, "sync", sweep)

    async def nothing() -> Sequence[Artifact]:
        return ()

    async with (
        files.allowances.upload(uuid4(), "a", nothing) as allowance,
        files.upload(job_id, 1, allowance) as upload,
    ):
        await upload.write(b"x")
        artifact = await upload.complete("a")
    assert swept
    assert [part async for part in files.read(artifact.location, 0, 1)] == [b"x"]
