"""`composerd storage backup`: a backup beside a server under load is whole, and is served as it is."""

import asyncio
import hashlib
import json
import os
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from composerd import storage as storages
from composerd.driver.registry import open_driver
from composerd.models import JobState
from composerd.storage.opening import artifacts_of
from composerd_fs import FsDriver

from ..drivers.fs.small_disks import small_disk
from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, Server, send
from .test_cli import start
from .test_storage import everything, filled, finished, storage


class Load:
    """Clients that submit, finish, delete and upload, and remember what was acknowledged."""

    def __init__(self, server: Server) -> None:
        self.submitted: set[str] = set()
        """Jobs whose submission was acknowledged, and whose deletion was not begun."""
        self.finished: dict[str, dict[str, str]] = {}
        """Those whose end was acknowledged, with the digests of their files by name."""
        self.jobs = 0
        self._server = server
        self._random = random.Random(1)
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, clients: int, size: int) -> None:
        """Let clients work with args of up to this size."""
        self._tasks = [asyncio.create_task(self._work(size)) for _ in range(clients)]

    async def end(self) -> None:
        """Let the clients finish what they do."""
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def _work(self, size: int) -> None:
        server = self._server
        while not self._stopped:
            self.submitted.add((await server.submit(args="x" * self._random.randrange(size)))["id"])
            self.jobs += 1
            job = await server.ask()
            assert job is not None
            files = {}
            for n in range(self._random.randrange(3)):
                data = self._random.randbytes(self._random.randrange(20_000))
                assert (await send(server, "PUT", f"{job['artifact_location']}{n}.bin", data))[0] == 200
                files[f"{n}.bin"] = hashlib.sha256(data).hexdigest()
            assert (await server.finish(job, {"n": "y" * self._random.randrange(3000)}))[0] == 200
            self.finished[job["id"]] = files
            if self._random.random() < 0.7:
                deleted = self._random.choice(list(self.finished))
                self.submitted.discard(deleted)
                del self.finished[deleted]
                await send(server, "DELETE", f"{COMPOSER}/jobs/{deleted}")


async def backed_up(url: str, directory: Path) -> dict[str, Any]:
    """Make a backup, which must be whole, and return what the command says."""
    ended = await storage("backup", str(directory), "--storage", url, "--json")
    assert ended.code == 0, (ended.out, ended.err)
    checked = await storage("check", "--storage", f"fs:{quote(str(directory))}", "--json")
    assert checked.code == 0, (checked.out, checked.err)
    assert [one for one in json.loads(checked.out)["not_checked"] if "contents of" not in one] == []
    found: dict[str, Any] = json.loads(ended.out)
    return found


async def contents(directory: Path) -> tuple[set[str], dict[str, dict[str, str]]]:
    """Return the jobs of a storage, and of those that have finished the digests of their files by name."""
    driver = open_driver(f"fs:{quote(str(directory))}")
    finished: dict[str, dict[str, str]] = {}
    async with storages.reading(driver):
        files = {job_id: listed async for job_id, listed in artifacts_of(driver)}
        for job_id, job in zip(files, await driver.get(list(files)), strict=True):
            assert job is not None
            if job.state is JobState.FINISHED:
                found = {one.name: (directory / "artifacts" / one.location).read_bytes() for one in files[job_id]}
                finished[str(job_id)] = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
                assert finished[str(job_id)] == {one.name: one.sha256 for one in files[job_id]}
    return {str(one) for one in files}, finished


@pytest.mark.row("Commands", "composerd storage backup")
async def test_beside_a_server_under_load(serve: Serve, tmp_path: Path) -> None:
    """Backups under load have everything that was acknowledged before they began, and are served as they are."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    load = Load(server)
    load.begin(4, 1_000_000)
    ended: Mapping[str, Any] = {}
    for n in range(4):
        submitted, ended = set(load.submitted), dict(load.finished)
        wanted = load.jobs + 80
        said = await backed_up(server.storage, tmp_path / f"backup {n}")
        in_copy, finished_there = await contents(tmp_path / f"backup {n}")
        assert len(in_copy) == said["jobs"]
        assert submitted & load.submitted <= in_copy
        assert {one: ended[one] for one in ended if one in load.finished}.items() <= finished_there.items()
        await server.until(partial(_reached, load, wanted))
    await load.end()
    assert list((tmp_path / "a" / "journal").glob("*.checkpoint"))
    assert (await storage("check", "--storage", server.storage)).code == 0
    copy = await serve(storage=f"fs:{quote(str(tmp_path / 'backup 3'))}")
    for job_id, files in ended.items():
        for name, digest in files.items():
            status, _, data = await send(copy, "GET", f"{COMPOSER}/jobs/{job_id}/artifacts/{name}")
            assert status in (200, 404)
            assert status == 404 or hashlib.sha256(data).hexdigest() == digest
    await copy.submit()
    assert await copy.ask() is not None


async def _reached(load: Load, jobs: int) -> bool:
    return load.jobs >= jobs


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_without_a_server(serve: Serve, tmp_path: Path, elsewhere: bool) -> None:
    """A backup of a stopped storage, on the same or another file system, shows the same; the source stays as it is."""
    url, before = await filled(serve, tmp_path / "a")
    source = _files(tmp_path / "a")
    with small_disk("tmpfs" if elsewhere else "ext4", tmp_path) as disk:
        target = disk / "backup" if elsewhere else tmp_path / "backup"
        target.mkdir()  # an empty directory will do
        said = await backed_up(url, target)
        assert said == {
            "kind": "StorageBackup",
            "directory": str(target),
            "jobs": 4,
            "artifacts": 1,
            "problems": [],
        }
        (artifact,) = (one for one in (target / "artifacts").rglob("*") if one.is_file())
        assert artifact.stat().st_nlink == (1 if elsewhere else 2)
        server = await serve(storage=f"fs:{target}")
        assert await everything(server) == before
        await server.submit()
        await server.close()
        assert _files(tmp_path / "a") == source
        again = await storage("backup", str(target), "--storage", url)
        assert (again.code, "is not empty" in again.err) == (1, True)
    server = await serve(storage=url)
    assert await everything(server) == before


def _files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return the files below a directory with their contents, and the times of their last changes."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


async def test_a_killed_backup(serve: Serve, tmp_path: Path) -> None:
    """A killed backup leaves nothing under the name of the backup, and harms neither the server nor the next one."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    load = Load(server)
    load.begin(2, 100_000)
    await server.until(partial(_reached, load, 50))
    unfinished = tmp_path / "backup.unfinished"

    async def begun() -> bool:
        return (unfinished / "journal").is_dir()

    for n in range(3):
        process = await start("storage", "backup", str(tmp_path / "backup"), "--storage", server.storage)
        await server.until(begun)
        await asyncio.sleep(0.005 * n)
        process.kill()
        await process.communicate()
        if (tmp_path / "backup").exists():
            break  # it was fast
    else:
        assert unfinished.exists()
        await backed_up(server.storage, tmp_path / "backup")
        assert not unfinished.exists()
    await load.end()
    assert (await server.submit())["state"] == "ready"
    assert (await storage("check", "--storage", server.storage)).code == 0


async def test_no_room(serve: Serve, tmp_path: Path) -> None:
    """A backup that finds no room is an error that names it, and leaves nothing."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    for _ in range(20):
        await server.submit(args="x" * 1_000_000)
    with small_disk("tmpfs", tmp_path) as disk:
        ended = await storage("backup", str(disk / "backup"), "--storage", server.storage)
        assert (ended.code, ended.out) == (1, "")
        assert f"cannot be copied to {disk / 'backup'}.unfinished: No space left on device" in ended.err
        assert _files(disk) == {}


async def test_a_killed_server(serve: Serve, tmp_path: Path) -> None:
    """Whenever the server is killed, and started again, during backups, each of them is whole."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    for n in range(3):
        for _ in range(20):
            await server.submit(args="x" * 5000)
        working = asyncio.create_task(backed_up(server.storage, tmp_path / f"{n}"))
        server.kill()
        await server.exited()
        await server.start()
        assert (await working)["jobs"] == 20 * (n + 1)


async def test_a_job_that_is_deleted_meanwhile(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose files are removed after the journal was copied is not in the backup, with its files."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    kept, deleted = [await finished(server) for _ in range(2)]
    original = FsDriver.backup

    async def gone() -> bool:
        return not (tmp_path / "a" / "artifacts" / deleted).exists()

    async def backup(driver: FsDriver, directory: Path) -> str:
        url = await original(driver, directory)
        assert (await send(server, "DELETE", f"{COMPOSER}/jobs/{deleted}"))[0] == 204
        await server.until(gone)
        return url

    monkeypatch.setattr(FsDriver, "backup", backup)
    done = await storages.back_up(server.storage, tmp_path / "backup", None, lambda _done, _total: None)
    assert (done.jobs, done.artifacts, done.problems) == (1, 1, ())
    assert (await contents(tmp_path / "backup"))[0] == {kept}
    assert (await storage("check", "--storage", f"fs:{tmp_path / 'backup'}")).code == 0


async def test_a_file_that_is_replaced_meanwhile(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running job whose file is replaced after the journal was copied is in the backup with the new file."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    await server.submit()
    job = await server.ask_and_confirm()
    assert (await send(server, "PUT", job["artifact_location"] + "log.txt", b"old"))[0] == 200
    original = FsDriver.backup
    times = 0

    async def backup(driver: FsDriver, directory: Path) -> str:
        nonlocal times
        url = await original(driver, directory)
        times += 1
        if times == 1:
            assert (await send(server, "PUT", job["artifact_location"] + "log.txt", b"new"))[0] == 200
            await server.until(_holds_one(tmp_path / "a" / "artifacts"))
        return url

    monkeypatch.setattr(FsDriver, "backup", backup)
    done = await storages.back_up(server.storage, tmp_path / "backup", None, lambda _done, _total: None)
    assert (done.jobs, done.artifacts, done.problems, times) == (1, 1, (), 2)
    assert [data for _, data in _files(tmp_path / "backup" / "artifacts").values()] == [b"new"]


def _holds_one(directory: Path) -> Any:
    async def holds() -> bool:
        return len(_files(directory)) == 1

    return holds


async def test_a_missing_artifact(serve: Serve, tmp_path: Path) -> None:
    """A backup of a storage that lacks a file is made, names the file, and exits with 1."""
    url, _ = await filled(serve, tmp_path / "a")
    (file,) = (one for one in (tmp_path / "a" / "artifacts").rglob("*") if one.is_file())
    file.unlink()
    ended = await storage("backup", str(tmp_path / "backup"), "--storage", url)
    assert (ended.code, f"its file {file} is missing" in ended.out) == (1, True)
    assert ended.err == "composerd: missing or damaged artifacts: 1; everything else is in the backup\n"
    assert len(await contents_without_files(tmp_path / "backup")) == 4


async def test_an_artifact_that_is_cut_off(serve: Serve, tmp_path: Path) -> None:
    """A backup of a storage that has a file of the wrong size is made, names the file, and exits with 1."""
    url, _ = await filled(serve, tmp_path / "a")
    (file,) = (one for one in (tmp_path / "a" / "artifacts").rglob("*") if one.is_file())
    size = file.stat().st_size
    os.truncate(file, size - 1)
    ended = await storage("backup", str(tmp_path / "backup"), "--storage", url)
    assert (ended.code, f"its file {file} has {size - 1} bytes, not {size}" in ended.out) == (1, True)
    assert ended.err == "composerd: missing or damaged artifacts: 1; everything else is in the backup\n"


async def contents_without_files(directory: Path) -> list[UUID]:
    """Return the jobs of a storage."""
    driver = open_driver(f"fs:{quote(str(directory))}")
    async with storages.reading(driver):
        return [job_id async for job_id, _ in artifacts_of(driver)]


async def test_what_cannot_be_backed_up(serve: Serve, tmp_path: Path, newest_postgres: Throwaway) -> None:
    """A database, a missing or damaged storage, and a target among the artifacts are errors that leave nothing."""
    url, _ = await filled(serve, tmp_path / "a")
    database = newest_postgres.fresh()
    await (await serve(storage=database)).close()
    cases = [
        (database, tmp_path / "b", "pg_dump"),
        ("memory:", tmp_path / "b", "memory: composerd cannot back this storage up"),
        (f"fs:{tmp_path / 'none'}", tmp_path / "b", "there is no storage"),
        (url, tmp_path / "a" / "artifacts" / "b", "is in the directory of the artifacts"),
    ]
    for source, target, reason in cases:
        ended = await storage("backup", str(target), "--storage", source)
        assert (ended.code, ended.out, reason in ended.err) == (1, "", True), ended.err
        assert not target.exists()
    journal = tmp_path / "a" / "journal" / "00000001.log"
    data = bytearray(journal.read_bytes())
    data[-100] ^= 1
    journal.write_bytes(data)
    ended = await storage("backup", str(tmp_path / "b"), "--storage", url)
    assert (ended.code, f"{journal} at byte" in ended.err) == (1, True)
    assert not any(Path(name).is_relative_to(tmp_path / "b") for name in _files(tmp_path))
    assert not (tmp_path / "b.unfinished").exists()
