"""A server whose directory is moved, replaced, mounted over, unmounted, or taken by another server, while it runs."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..drivers.fs.fuse import passthrough
from ..drivers.fs.mounts import make_image, mounted, run, unmount
from .conftest import COMPOSER, JSON, Serve, Server, send, until_ready
from .processes import command

REASON = b"the journal was removed, moved or taken by another process"

UNFINISHED = shutil.ignore_patterns("CLOCK.tmp")
"""Leaves out of a copy what may be renamed meanwhile."""

Change = Callable[[Path], contextlib.AbstractContextManager[Any]]
"""Does something to the directory of a running server, and takes it back at the end of a block."""


@contextlib.contextmanager
def copied(storage: Path) -> Iterator[None]:
    """Move the directory away, and put a copy in its place."""
    away = storage.with_name("away")
    storage.rename(away)
    shutil.copytree(away, storage, ignore=UNFINISHED)
    yield
    shutil.rmtree(storage)
    away.rename(storage)


@contextlib.contextmanager
def moved(storage: Path) -> Iterator[None]:
    """Move the directory away, and put nothing in its place."""
    storage.rename(storage.with_name("away"))
    yield
    storage.with_name("away").rename(storage)


@contextlib.contextmanager
def covered(storage: Path) -> Iterator[None]:
    """Mount another file system over the directory, with the same directories in it."""
    with mounted(make_image("ext4", storage.parent / "image"), storage):
        (storage / "journal").mkdir()
        yield


@contextlib.contextmanager
def journal_covered(storage: Path) -> Iterator[None]:
    """Mount another file system over the directory of the journal alone."""
    with mounted(make_image("ext4", storage.parent / "image"), storage / "journal"):
        yield


@contextlib.contextmanager
def unlocked(storage: Path) -> Iterator[None]:
    """Remove the file that keeps other servers out."""
    (storage / "LOCK").unlink()
    yield


async def acknowledged(server: Server, count: int) -> list[dict[str, Any]]:
    """Submit jobs, and return those that were accepted."""
    answers = [await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"}) for _ in range(count)]
    assert {status for status, _ in answers} <= {201, 503, 504}
    return [job for status, job in answers if status == 201]


@pytest.mark.parametrize("change", [copied, moved, covered, journal_covered, unlocked])
async def test_a_directory_that_is_not_in_its_place(tmp_path: Path, serve: Serve, change: Change) -> None:
    """A server whose path names another directory accepts nothing more, says why, and has lost nothing at a restart."""
    storage = tmp_path / "storage"
    server = await serve()
    before = await acknowledged(server, 3)
    assert len(before) == 3
    with change(storage):
        assert await acknowledged(server, 3) == []
        status, _, reason = await send(server, "GET", "/readyz")
        assert (status, REASON in reason) == (503, True), reason
        assert server.log.count(REASON) == 1, "one line, however many requests fail"
        server.kill()
        await server.exited()
    await server.start()
    for job in before:
        await server.job(job["id"])
    assert len(await acknowledged(server, 1)) == 1


@pytest.mark.parametrize("change", [copied, unlocked])
async def test_it_is_noticed_without_a_write(tmp_path: Path, serve: Serve, change: Change) -> None:
    """A server to which nobody submits notices it when it is asked whether it is ready."""
    server = await serve()
    with change(tmp_path / "storage"):
        assert (await send(server, "GET", "/readyz"))[0] == 503
        server.kill()
        await server.exited()


async def test_a_file_system_that_is_unmounted_lazily(tmp_path: Path, serve: Serve) -> None:
    """After a lazy unmount a server accepts nothing more, and a second one on the mount point affects nothing."""
    image, at = make_image("ext4", tmp_path / "image"), tmp_path / "mnt"
    with mounted(image, at):
        first = await serve(storage=f"fs:{at / 'storage'}")
        before = await acknowledged(first, 3)
        run("umount", "--lazy", at)
        second = await serve(storage=f"fs:{at / 'storage'}")
        assert len(await acknowledged(second, 3)) == 3
        assert await acknowledged(first, 3) == []
        await first.close()
        await second.close()
    with mounted(image, at):
        again = await serve(storage=f"fs:{at / 'storage'}")
        for job in before:
            await again.job(job["id"])
        await again.close()
    unmount(at)


async def test_a_copy_of_the_directory_of_a_running_server(tmp_path: Path, serve: Serve) -> None:
    """A copy or a snapshot can be checked on the same machine, although its LOCK names a server that is running."""
    server = await serve()
    await acknowledged(server, 3)
    shutil.copytree(tmp_path / "storage", tmp_path / "copy", ignore=UNFINISHED)
    check = command("storage", "check", "--storage", f"fs:{tmp_path / 'copy'}")
    printed = check.communicate()
    assert (check.returncode, b"ready\t3" in printed) == (0, True), printed + check.said()
    check.close()
    assert len(await acknowledged(server, 1)) == 1
    await server.close()


@pytest.mark.parametrize("change", [moved, unlocked])
async def test_a_second_server_in_its_place(tmp_path: Path, serve: Serve, change: Change) -> None:
    """A second server on the path loses nothing to the first, which accepts nothing more."""
    first = await serve()
    before = await acknowledged(first, 3)
    with contextlib.ExitStack() as stack:
        stack.enter_context(change(tmp_path / "storage"))
        second = await serve()
        after = await acknowledged(second, 2)
        assert await acknowledged(first, 2) == []
        after += await acknowledged(second, 2)
        assert len(after) == 4
        for server in (first, second):
            server.kill()
            await server.exited()
        await second.start()
        for job in [*after, *(before if change is unlocked else [])]:
            await second.job(job["id"])
        await second.close()
        if change is moved:
            shutil.rmtree(tmp_path / "storage")


async def test_a_stop_beside_a_second_server(tmp_path: Path, serve: Serve) -> None:
    """A server that has lost its directory to a second one leaves nothing there when it stops."""
    first = await serve()
    with unlocked(tmp_path / "storage"):
        second = await serve()
        await first.close()
        assert not (tmp_path / "storage" / "journal" / "CLEAN").exists()
        assert b"left no marker of a clean stop" in first.log
        after = await acknowledged(second, 2)
        second.kill()
        await second.exited()
        await second.start()
        for job in after:
            await second.job(job["id"])
        await second.close()


async def test_artifacts_that_are_not_in_their_place(tmp_path: Path, serve: Serve) -> None:
    """A server takes no artifact while its directory of artifacts is elsewhere, and goes on when it is back."""
    artifacts = tmp_path / "artifacts"
    server = await serve("--artifacts", str(artifacts))
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    place = attempt["artifact_location"]
    assert (await send(server, "PUT", f"{place}before", b"x" * 300_000))[0] == 200
    with copied(artifacts):
        assert (await send(server, "PUT", f"{place}meanwhile", b"x" * 300_000))[0] == 503
        await until_ready(server, 503)
        assert b"the directory of artifacts" in server.log
    assert (await send(server, "PUT", f"{place}after", b"x" * 300_000))[0] == 200
    await until_ready(server, 200)
    assert (await send(server, "PATCH", attempt["location"], b'{"result": 1}', **JSON))[0] == 200
    listed = (await server.request("GET", f"{COMPOSER}/jobs/{attempt['id']}/artifacts"))[1]["items"]
    assert sorted(one["name"] for one in listed) == ["after", "before"]


async def test_a_file_system_without_locks(tmp_path: Path, serve: Serve) -> None:
    """A second server of a machine is refused where the file system keeps no locks, because the first one runs."""
    (tmp_path / "below").mkdir()
    with (
        passthrough(tmp_path / "below", tmp_path / "one") as one,
        passthrough(tmp_path / "below", tmp_path / "two") as two,
    ):
        first = await serve(storage=f"fs:{one / 'storage'}")
        assert len(await acknowledged(first, 3)) == 3
        second = command("serve", "--listen", "127.0.0.1:0", "--storage", f"fs:{two / 'storage'}")
        await asyncio.to_thread(second.wait)
        assert f"is in use by another composerd (process {first.pid})".encode() in second.said()
        second.close()
        assert len(await acknowledged(first, 3)) == 3

        (two / "storage" / "LOCK").write_text("4711\nsomewhere else\n")  # as a server of another machine would

        async def refused() -> bool:
            return await acknowledged(first, 1) == []

        await first.until(refused)  # FUSE remembers for a second when a file was changed
        assert b"process 4711 wrote its name into the file LOCK" in first.log
        await first.close()
