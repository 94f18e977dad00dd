"""A directory that another user has made or can write to is refused; nothing in it is followed, truncated or read."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..live.conftest import LOOPBACK, clean_environment
from ..live.processes import Process, command
from .conftest import Client

OTHER = 65534
"""The number of another user. Only root can give files to it."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def serve_in(storage: Path, *options: str) -> Process:
    """Start a server on an fs storage."""
    return command("serve", "--listen", f"{LOOPBACK}:0", "--storage", f"fs:{storage}", *options, **clean_environment())


def refused(storage: Path, *options: str) -> str:
    """Start a server that has to refuse its directory, and return what it says."""
    process = serve_in(storage, *options)
    try:
        assert process.communicate() == b""
        assert process.returncode == 2
        said = process.said().decode()
        assert said.startswith("composerd: ")
        assert said.count("\n") == 1
        return said
    finally:
        process.close()


def files_of(directory: Path) -> set[Path]:
    """Return everything below a directory."""
    return set(directory.rglob("*"))


@as_root
@pytest.mark.parametrize("name", ["", "journal", "LOCK", "journal/00000001.log", "artifacts"])
def test_of_another_user(tmp_path: Path, name: str) -> None:
    """A directory or a file of another user is refused, with the command that mends it, and nothing is written."""
    storage = tmp_path / "storage"
    process = serve_in(storage)
    assert process.stdout.readline().startswith(b"listening on ")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    process.close()
    planted = storage / name
    os.chown(planted, OTHER, -1)
    said = refused(storage)
    assert f"{planted} belongs to nobody, who could change what is in it" in said
    assert f"`chown -R root {planted}`" in said
    os.chown(planted, 0, -1)
    process = serve_in(storage)
    assert process.stdout.readline().startswith(b"listening on ")
    process.close()


@pytest.mark.parametrize("mode", [0o770, 0o702])
@pytest.mark.parametrize("name", ["storage", "storage/journal", "storage/artifacts"])
def test_writable_by_others(tmp_path: Path, name: str, mode: int) -> None:
    """A directory that others can write to is refused, with the command that mends it; one they can read is not."""
    directory = tmp_path / name
    directory.mkdir(parents=True, mode=0o700)
    directory.chmod(mode)
    said = refused(tmp_path / "storage")
    assert f"{directory} can be written to by other users (mode {mode:04o})" in said
    assert f"`chmod go-w {directory}`" in said
    directory.chmod(0o755)
    process = serve_in(tmp_path / "storage")
    assert process.stdout.readline().startswith(b"listening on ")
    process.close()


@pytest.mark.parametrize("name", ["journal/CLEAN", "journal/CLOCK", "journal/SECRET", "journal/00000001.log"])
def test_a_file_that_others_can_write_to(tmp_path: Path, name: str) -> None:
    """Each file that says something about the storage is refused if others can write to it, and not read as damaged."""
    storage = tmp_path / "storage"
    process = serve_in(storage)
    assert process.stdout.readline().startswith(b"listening on ")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    process.close()
    (storage / name).chmod(0o606)
    said = refused(storage)
    assert f"{storage / name} can be written to by other users (mode 0606)" in said
    assert f"`chmod go-w {storage / name}`" in said


@pytest.mark.parametrize(
    "name", ["LOCK", "journal/CLOCK.tmp", "journal/SECRET.tmp", "journal/1.reserve", "journal/00000001.log.tmp"]
)
@pytest.mark.parametrize("make", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_links_to_files(tmp_path: Path, name: str, make: Callable[[Path, Path], None]) -> None:
    """No link in the place of a file makes the server write to the file that it leads to."""
    storage, target = tmp_path / "storage", tmp_path / "precious"
    (storage / "journal").mkdir(parents=True, mode=0o700)
    target.write_text("precious\n")
    target.chmod(0o600)
    make(target, storage / name)
    process = serve_in(storage)
    if process.stdout.readline():
        process.send_signal(signal.SIGTERM)
    assert process.wait() in (0, 2)
    if name == "LOCK":
        problem = "is a symbolic link, which is not followed" if make is os.symlink else "is not a lock of composerd"
        assert f"{storage / name} {problem}" in process.said().decode()
    process.close()
    assert target.read_text() == "precious\n"


@as_root
def test_a_link_of_another_user(tmp_path: Path) -> None:
    """A link to a storage is followed if the server's user made it, and refused if another one did."""
    link = tmp_path / "link"
    (tmp_path / "storage").mkdir(mode=0o700)
    link.symlink_to(tmp_path / "storage")
    process = serve_in(link)
    assert process.stdout.readline().startswith(b"listening on ")
    process.close()
    os.chown(link, OTHER, -1, follow_symlinks=False)
    assert f"{link} is a symbolic link that belongs to nobody" in refused(link)


@pytest.mark.parametrize("umask", [0, 0o777], ids=oct)
async def test_modes(tmp_path: Path, client: Callable[..., Client], umask: int) -> None:
    """Files are for their owner only, and directories too, whatever the umask; a unix socket is for the group too."""
    storage, path = tmp_path / "made" / "storage", tmp_path / "socket"
    with with_umask(umask, "--listen", f"unix:{path}", "--storage", f"fs:{storage}") as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("listening on ").strip()
            assert process.stdout.readline() == f"listening on http+unix:{path}\n"
            server: Any = type("Started", (), {"url": url})
            await client(server).work()
            assert permissions(path) == 0o660
            for one in (storage, storage.parent, *files_of(storage)):
                assert permissions(one) == (0o700 if one.is_dir() else 0o600), one
        finally:
            process.terminate()
    assert process.returncode == 0
    assert not path.exists()


def with_umask(umask: int, *options: str) -> "subprocess.Popen[str]":
    """Start a server with a umask."""
    program = [sys.executable, "-c", "from composerd.cli.main import main; main()", "serve"]
    return subprocess.Popen(
        [*program, "--listen", f"{LOOPBACK}:0", *options],
        stdout=subprocess.PIPE,
        umask=umask,
        text=True,
        env=clean_environment(),
    )


def permissions(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.lstat().st_mode)
