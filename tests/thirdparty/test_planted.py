"""The examples of a driver and an artifact store that are files refuse those of other users."""

from pathlib import Path

import pytest

from composerd.errors import StorageUnusable

KINDS = [("composerd_sqlite", "SqliteDriver"), ("composerd_bucket", "BucketStore")]


@pytest.mark.parametrize(("module", "name"), KINDS)
async def test_a_file_that_others_can_write_to(tmp_path: Path, module: str, name: str) -> None:
    """A file, or a directory, that others can write to is refused; a new file is for its owner only."""
    kind = getattr(pytest.importorskip(module), name)
    path = tmp_path / "stored.db"
    one = kind.from_url(f"{kind.name}:{path}")
    await one.start(create=True)
    await one.close()
    assert path.stat().st_mode & 0o777 == 0o600
    for planted in (path, tmp_path):
        mode = planted.stat().st_mode
        planted.chmod(mode | 0o020)
        one = kind.from_url(f"{kind.name}:{path}")
        with pytest.raises(StorageUnusable, match="can be written to by other users"):
            await one.start(create=True)
        await one.close()
        planted.chmod(mode)
