"""A file of the operator's is read again when it changes, and one that cannot be used changes nothing."""

# ruff: noqa: ASYNC240  # the files are small, and nobody else waits for the loop

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from composerd import watched_file
from composerd.tasks import stop
from composerd.watched_file import UnusableFile, WatchedFile

EXPECTED = "number: the file cannot be used, so its previous version stays in force: {}"


def parse(content: bytes) -> int:
    """Return the number in a file. A word for it raises what a parser should not."""
    if content == b"two":
        raise KeyError
    return int(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file with a number."""
    path = tmp_path / "number"
    path.write_text("1")
    path.chmod(0o600)
    return path


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be looked at often."""
    monkeypatch.setattr(watched_file, "LOOK_EVERY", 0.01)


async def until(condition: Callable[[], object]) -> None:
    """Return when a condition holds; the test's timeout ends one that never does."""
    while not condition():  # noqa: ASYNC110  # what changes is a file
        await asyncio.sleep(0.005)


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Have something else at the path."""
    path.unlink()
    make(path)


@contextmanager
def watching(path: Path) -> Iterator[WatchedFile[int]]:
    """Yield the file, which is looked at meanwhile."""
    file = WatchedFile(path, parse, "number")
    task = asyncio.create_task(file.run())
    yield file
    task.cancel()


async def test_change(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another content is in force soon, and whoever wants to know is told; so is a file that takes its place."""
    caplog.set_level(logging.INFO)
    with watching(path) as file:
        changes: list[int] = []
        file.on_change = lambda: changes.append(file.value)
        path.write_text("22")
        await until(lambda: file.value == 22)
        other = path.with_name("other")
        other.write_text("33")
        other.replace(path)
        await until(lambda: file.value == 33)
        assert changes == [22, 33]
        assert caplog.text.count("read the new version of") == 2


async def test_link_that_leads_elsewhere(path: Path) -> None:
    """A symbolic link may be changed too, as Kubernetes changes the files of a secret."""
    link = path.with_name("link")
    link.symlink_to(path)
    other = path.with_name("other")
    other.write_text("2")
    with watching(link) as file:
        new = path.with_name("new")
        new.symlink_to(other)
        new.replace(link)
        await until(lambda: file.value == 2)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.write_text("many"), "invalid literal for int() with base 10: b'many'"),
        (lambda path: path.write_text("two"), "reading it has failed (KeyError)"),
        (Path.unlink, "No such file or directory"),
        (lambda path: path.chmod(0o622), "other users can write to it (mode 0622): forbid that with `chmod go-w`"),
        (lambda path: replace(path, Path.mkdir), "Is a directory"),
        (lambda path: replace(path, os.mkfifo), "it is not a regular file"),
        (lambda path: os.truncate(path, watched_file.LARGEST + 1), f"it is larger than {watched_file.LARGEST} bytes"),
    ],
    ids=["wrong", "unexpected", "removed", "writable", "directory", "fifo", "large"],
)
async def test_unusable(
    path: Path, harm: Callable[[Path], object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that cannot be used leaves the previous value in force, is logged once, and stops a start."""
    with watching(path) as file:
        harm(path)
        await until(lambda: file.problem)
        assert (file.value, file.problem) == (1, EXPECTED.format(reason))
        path.touch() if path.is_file() else None
        await asyncio.sleep(0.05)
        assert [one.getMessage() for one in caplog.records] == [
            f"cannot use {path}, so its previous version stays in force: {reason}"
        ]
        with pytest.raises(UnusableFile) as raised:
            WatchedFile(path, parse, "number")
        assert str(raised.value) == f"number: {path} cannot be used: {reason}"
        other = path.with_name("other")
        other.write_text("2")
        path.rmdir() if path.is_dir() else None
        other.replace(path)
        await until(lambda: file.problem is None)
        assert file.value == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_file_of_another_user(path: Path) -> None:
    """A file of a user who is neither root nor this process's could be changed by that user."""
    os.chown(path, 65534, -1)
    with pytest.raises(UnusableFile, match="it belongs to another user"):
        WatchedFile(path, parse, "number")


async def test_file_that_is_being_written(path: Path) -> None:
    """A file is read when it has settled, or if it does not settle, at the third look at the latest."""
    file = WatchedFile(path, parse, "number")
    path.write_text("22")
    assert not file._has_changed()
    path.write_text("333")
    assert not file._has_changed()
    path.write_text("4444")
    assert file._has_changed()
    assert not file._has_changed()
    path.write_text("55555")
    assert [file._has_changed() for _ in range(3)] == [False, True, False]


async def test_error_that_passes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that could not be read is read as soon as it can be, although it has not changed meanwhile."""
    with watching(path) as file, monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(watched_file, "read_trusted", fail)
        path.write_text("22")
        await until(lambda: file.problem)
        assert (file.value, file.problem) == (1, EXPECTED.format("Input/output error"))
        patch.undo()
        monkeypatch.setattr(watched_file, "LOOK_EVERY", 0.01)
        await until(lambda: file.value == 22)
        assert file.problem is None


async def test_look_at_once(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A caller who misses something in the file can have it read, a few times a second; a mistake changes nothing."""
    file = WatchedFile(path, parse, "number")
    looks: list[int] = []
    look = file._signature

    def signature() -> watched_file.Signature:
        looks.append(1)
        return look()

    monkeypatch.setattr(file, "_signature", signature)
    path.write_text("22")
    await asyncio.gather(*(file.look_now() for _ in range(10)))
    assert (file.value, len(looks)) == (22, 1)
    assert not file._has_changed()
    path.write_text("333")
    began = time.monotonic()
    await asyncio.gather(*(file.look_now() for _ in range(10)))
    assert (file.value, len(looks)) == (333, 3)
    assert time.monotonic() - began >= watched_file.LOOK_NOW_EVERY / 2
    path.write_text("many")
    await file.look_now()
    assert (file.value, file.problem, caplog.messages) == (333, None, [])
    path.write_text("4444")
    await file.look_now()
    assert file.value == 4444


async def test_secrets_that_everybody_can_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with secrets that every user can read is used, with a warning."""
    path.chmod(0o644)
    WatchedFile(path, parse, "number", secret=True)
    assert caplog.messages == [f"every user of this machine can read {path}: forbid that with `chmod o-r {path}`"]
    path.chmod(0o640)
    WatchedFile(path, parse, "number", secret=True)
    assert len(caplog.messages) == 1


async def test_change_within_two_seconds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real pauses a change is in force within two seconds."""
    monkeypatch.undo()
    file = WatchedFile(path, parse, "number")
    task = asyncio.create_task(file.run())
    path.write_text("22")
    async with asyncio.timeout(2):
        await until(lambda: file.value == 22)
    await stop(task)
