"""The secret of an fs storage, in a file: made once, kept over kills and backups, and no start fails because of it."""

import errno
import logging
import os
import shutil
from pathlib import Path

import pytest

from composerd.directory import Directory
from composerd_fs.journal.secret_file import SECRET

from ..conftest import Instance, opened


async def secret_of(directory: Path) -> bytes:
    """Open a storage and return its secret."""
    driver = await opened(directory)
    secret = await driver.secret()
    await driver.close()
    return secret


async def test_storages_have_different_secrets(tmp_path: Path) -> None:
    """Each new storage makes its own secret, in a file that only its owner can read."""
    assert await secret_of(tmp_path / "one") != await secret_of(tmp_path / "two")
    assert (tmp_path / "one" / "journal" / SECRET).stat().st_mode & 0o777 == 0o600


async def test_a_kill_keeps_the_secret(fs: Instance, tmp_path: Path) -> None:
    """A copy of the files as a kill would leave them, with a secret that was not finished too, has the same secret."""
    copy = tmp_path / "copy"
    shutil.copytree(fs.directory, copy)
    (copy / "journal" / f"{SECRET}.tmp").write_bytes(b"half")
    assert await secret_of(copy) == await fs.driver.secret()


async def test_a_storage_from_before_gets_a_secret(fs: Instance) -> None:
    """A storage without a secret, as an earlier version left it, gets one at the next start."""
    await fs.driver.close()
    (fs.directory / "journal" / SECRET).unlink()
    made = await secret_of(fs.directory)
    assert await secret_of(fs.directory) == made


async def test_a_backup_has_the_secret(fs: Instance, tmp_path: Path) -> None:
    """A server on a backup goes on with the secret."""
    target = tmp_path / "backup"
    target.mkdir()
    await fs.make_driver().backup(target)
    assert await secret_of(target) == await fs.driver.secret()


async def test_reading_makes_no_secret(fs: Instance) -> None:
    """A command that only reads a storage without a secret leaves it as it is."""
    await fs.driver.close()
    (fs.directory / "journal" / SECRET).unlink()
    driver = fs.make_driver()
    await driver.start_reading()
    await driver.close()
    assert not (fs.directory / "journal" / SECRET).exists()


async def test_a_damaged_secret(fs: Instance, caplog: pytest.LogCaptureFixture) -> None:
    """A secret that is not whole is replaced, and the log says so."""
    await fs.driver.close()
    (fs.directory / "journal" / SECRET).write_bytes(b"short")
    made = await secret_of(fs.directory)
    assert "the secret is damaged" in caplog.text
    assert len(made) == 32
    assert await secret_of(fs.directory) == made


async def test_no_room_for_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk the storage opens with a secret that lasts until it is closed, and the log says so."""
    write = Directory.write

    def full(directory: Directory, name: str, data: bytes) -> None:
        if name == SECRET:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(directory, name, data)

    monkeypatch.setattr(Directory, "write", full)
    with caplog.at_level(logging.WARNING):
        made = await secret_of(tmp_path)
    assert len(made) == 32
    assert "cannot store the secret: No space left on device" in caplog.text
    assert await secret_of(tmp_path) != made
