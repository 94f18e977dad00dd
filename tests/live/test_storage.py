"""`composerd migrate` and `composerd storage` with storages of real servers."""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from composerd import storage as storages
from composerd.driver import StoredJob
from composerd.driver.registry import open_driver
from composerd.errors import StorageFull
from composerd.models import NewJob

from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, Server, send
from .test_cli import Ended, composerd, start


async def storage(*arguments: str) -> Ended:
    """Run a subcommand of `composerd storage`."""
    return await composerd("storage", *arguments)


def state_of(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return of all files and directories below one, and of itself, the modes, times of change, sizes and contents."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        seen = path.lstat()
        found[str(path)] = seen.st_mode, seen.st_mtime_ns, seen.st_ctime_ns, b"" if path.is_dir() else path.read_bytes()
    return found


async def filled(serve: Serve, directory: Path) -> tuple[str, dict[str, object]]:
    """Fill a storage with jobs in several states, one with an artifact, and stop its server.

    Return the URL of the storage, and everything that the server has shown of the jobs.
    """
    url = f"fs:{directory}"
    server = await serve(storage=url)
    done = await server.submit(args={"n": 1})
    job = await server.ask()
    assert job is not None
    await send(server, "PUT", job["artifact_location"] + "log.txt", b"hello")
    await server.finish(job, {"ok": True})
    await server.submit()
    failed = await server.ask()
    assert failed is not None
    await server.finish(failed, {"job_error": {"id": 1, "reason": "no", "details": None}})
    await server.submit()
    assert await server.ask()
    await server.submit("other", dependencies=[done["id"]], idempotency_key="k")
    before = await everything(server)
    await server.close()
    return url, before


async def finished(server: Server) -> str:
    """Finish a job with an artifact, and return its id."""
    job_id: str = (await server.submit())["id"]
    job = await server.ask()
    assert job is not None
    await send(server, "PUT", job["artifact_location"] + "log.txt", b"hello")
    await server.finish(job, {"ok": True})
    return job_id


async def everything(server: Server) -> dict[str, object]:
    """Return everything that the server shows of its jobs."""
    _, listing = await server.request("GET", f"{COMPOSER}/jobs")
    shown: dict[str, object] = {}
    for job in listing["items"]:
        for path in ("", "/args", "/result", "/artifacts", "/artifacts/log.txt"):
            _, _, shown[job["id"] + path] = await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}{path}")
    return {name: _without_operation(body) for name, body in shown.items()}


def _without_operation(body: object) -> object:
    assert isinstance(body, bytes)
    try:
        decoded = json.loads(body)
    except ValueError:
        return body
    if isinstance(decoded, dict):
        decoded.pop("operation_id", None)
    return decoded


@pytest.mark.row("Commands", "composerd storage info")
async def test_info(serve: Serve, tmp_path: Path) -> None:
    """`storage info` shows the number of jobs in each state, as lines and as JSON."""
    url, _ = await filled(serve, tmp_path / "a")
    ended = await storage("info", "--storage", url)
    assert ended.code == 0, ended.err
    assert f"storage\tfs at {tmp_path / 'a'}\n" in ended.out
    assert "jobs finished\t1\n" in ended.out
    found = json.loads((await storage("info", "--storage", url, "--json")).out)
    assert found["kind"] == "StorageInfo"
    assert found["jobs"] == {"waiting": 0, "ready": 1, "running": 1, "finished": 1, "failed": 1, "canceled": 0}


@pytest.mark.row("Commands", "composerd storage check")
async def test_an_intact_storage(serve: Serve, tmp_path: Path) -> None:
    """`storage check` reports that an intact storage is intact."""
    url, _ = await filled(serve, tmp_path / "a")
    ended = await storage("check", "--storage", url)
    assert (ended.code, ended.err) == (0, "")
    assert "intact\tyes\n" in ended.out


async def test_a_missing_artifact(serve: Serve, tmp_path: Path) -> None:
    """`storage check` names an artifact whose file is missing or too short."""
    url, _ = await filled(serve, tmp_path / "a")
    (file,) = (one for one in (tmp_path / "a" / "artifacts").rglob("*") if one.is_file())
    file.write_bytes(b"hell")
    ended = await storage("check", "--storage", url)
    assert ended.code == 1
    assert "'log.txt'" in ended.out
    assert "has 4 bytes, not 5" in ended.out
    file.unlink()
    found = await storage("check", "--storage", url, "--json")
    assert found.code == 1
    assert json.loads(found.out)["whole"] is False
    assert f"its file {file} is missing" in json.loads(found.out)["problems"][0]


@pytest.mark.row("Commands", "composerd storage check")
async def test_a_damaged_storage(serve: Serve, tmp_path: Path) -> None:
    """`storage check` reports damage with file and offset, counts the readable jobs, and changes nothing."""
    url, _ = await filled(serve, tmp_path / "a")
    journal = tmp_path / "a" / "journal" / "00000001.log"
    data = bytearray(journal.read_bytes())
    data[-100] ^= 1
    journal.write_bytes(data)
    ended = await storage("check", "--storage", url)
    assert ended.code == 1
    assert f"{journal} at byte " in ended.out
    assert "jobs finished\t1\n" in ended.out
    assert journal.read_bytes() == data
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("command", ["info", "check"])
async def test_a_missing_storage(command: str, tmp_path: Path) -> None:
    """A path without a storage is an error, and no storage is created."""
    ended = await storage(command, "--storage", f"fs:{tmp_path / 'none'}")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == f"composerd: there is no storage in {tmp_path / 'none'}\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["info", "--storage", "nothing"],
        ["check", "--storage", "nope:x"],
        ["move", "--from", "fs:", "--to", "fs:/x"],
        ["info"],
        ["move", "--from", "fs:/x"],
    ],
)
async def test_wrong_urls(command: list[str]) -> None:
    """An invalid storage URL is exit code 2 and one sentence."""
    ended = await storage(*command)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("command", [["storage", "info"], ["storage", "check"], ["migrate"]])
async def test_memory(command: list[str]) -> None:
    """A storage in memory has nothing that a command could look at, and none says that it is intact or up to date."""
    ended = await composerd(*command, "--storage", "memory:")
    assert ended == (1, "", "composerd: memory: has no jobs from an earlier process; use another storage\n")


def reading_artifacts(command: str, url: str, target: Path) -> list[str]:
    """Return the arguments of a command that reads the artifacts of a storage, and of some a directory to write to."""
    return {
        "check": ["check", "--storage", url],
        "backup": ["backup", str(target), "--storage", url],
        "salvage": ["salvage", "--storage", url, "--to", f"fs:{target}"],
        "move": ["move", "--from", url, "--to", f"fs:{target}"],
    }[command]


@pytest.mark.parametrize("command", ["check", "backup", "salvage", "move"])
async def test_a_wrong_directory_of_artifacts(serve: Serve, tmp_path: Path, command: str) -> None:
    """A directory of artifacts that does not exist is a wrong option, instead of a lack of every artifact."""
    url, _ = await filled(serve, tmp_path / "a")
    option = "--from-artifacts" if command == "move" else "--artifacts"
    ended = await storage(*reading_artifacts(command, url, tmp_path / "b"), option, str(tmp_path / "none"))
    assert (ended.code, ended.out, f"Directory '{tmp_path / 'none'}' does not exist" in ended.err) == (2, "", True)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("command", ["check", "backup", "salvage", "move"])
async def test_artifacts_that_are_elsewhere(serve: Serve, tmp_path: Path, command: str) -> None:
    """If the server has its artifacts elsewhere, a command that was not told where says which option names it."""
    url, _ = await filled(serve, tmp_path / "a")
    (tmp_path / "a" / "artifacts").rename(tmp_path / "elsewhere")
    ended = await storage(*reading_artifacts(command, url, tmp_path / "b"))
    assert (ended.code, "if the server has --artifacts, name that directory" in ended.err) == (1, True)


async def test_a_storage_in_use(serve: Serve, tmp_path: Path) -> None:
    """While a server uses the storage, a move fails and says so, from it and to it."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    await (await serve(storage=f"fs:{tmp_path / 'b'}")).close()
    for source, target in ("ab", "ba"):
        ended = await storage("move", "--from", f"fs:{tmp_path / source}", "--to", f"fs:{tmp_path / target}")
        assert (ended.code, "is in use by another composerd" in ended.err) == (1, True)
    assert (await server.submit())["state"] == "ready"


@pytest.mark.row("Commands", "composerd storage move")
async def test_move(serve: Serve, tmp_path: Path) -> None:
    """`storage move` copies all jobs and files, a repetition changes nothing, and the source is unchanged."""
    url, before = await filled(serve, tmp_path / "a")
    target = f"fs:{tmp_path / 'b'}"
    unchanged = state_of(tmp_path / "a")
    ended = await storage("move", "--from", url, "--to", target)
    assert (ended.code, ended.out) == (0, "Moved 4 jobs and copied 1 file.\n"), ended.err
    again = await storage("move", "--from", url, "--to", target, "--json")
    assert json.loads(again.out) == {"kind": "StorageMove", "jobs": 4, "artifacts": 0}
    assert state_of(tmp_path / "a") == unchanged
    for storage_url in (url, target):
        server = await serve(storage=storage_url)
        assert await everything(server) == before
        await server.close()


async def test_move_to_postgres_and_back(serve: Serve, tmp_path: Path, newest_postgres: Throwaway) -> None:
    """A move to PostgreSQL and back keeps jobs, results and files, and running attempts can be finished."""
    url, before = await filled(serve, tmp_path / "a")
    shared, files, back = newest_postgres.fresh(), str(tmp_path / "files"), f"fs:{tmp_path / 'b'}"
    ended = await storage("move", "--from", url, "--to", shared, "--to-artifacts", files)
    assert ended.code == 0, ended.err
    server = await serve("--artifacts", files, storage=shared)
    assert await everything(server) == before
    await server.submit()
    running = await server.ask()
    assert running is not None
    before = await everything(server)
    await server.close()
    ended = await storage("move", "--from", shared, "--from-artifacts", files, "--to", back)
    assert ended.code == 0, ended.err
    server = await serve(storage=back)
    assert await everything(server) == before
    assert (await server.finish(running, {"ok": True}))[0] == 200


async def test_an_interrupted_move(serve: Serve, tmp_path: Path) -> None:
    """A file that was copied in part is copied again; a file that is missing stops the move with its name."""
    url, before = await filled(serve, tmp_path / "a")
    (file,) = (one for one in (tmp_path / "a" / "artifacts").rglob("*") if one.is_file())
    location = file.relative_to(tmp_path / "a")
    file.rename(tmp_path / "kept")
    ended = await storage("move", "--from", url, "--to", f"fs:{tmp_path / 'b'}")
    assert (ended.code, ended.out) == (1, "")
    assert str(file) in ended.err
    (tmp_path / "kept").rename(file)
    (tmp_path / "b" / location).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "b" / location).write_bytes(b"hel")
    assert (await storage("move", "--from", url, "--to", f"fs:{tmp_path / 'b'}")).code == 0
    server = await serve(storage=f"fs:{tmp_path / 'b'}")
    assert await everything(server) == before


async def test_a_killed_move(serve: Serve, tmp_path: Path) -> None:
    """A killed move can be repeated: the rest is copied, and nothing is copied twice."""
    url, _ = await filled(serve, tmp_path / "a")
    server = await serve(storage=url)
    await server.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": [{"type": "bulk", "args": n} for n in range(250)]})
    await server.submit("last")
    job = await server.ask("last")
    assert job is not None
    await send(server, "PUT", job["artifact_location"] + "late.txt", b"late")
    await server.finish(job, {"ok": True})
    before = await everything(server)
    await server.close()
    (file,) = (
        one for one in (tmp_path / "a" / "artifacts").rglob("*") if one.is_file() and one.read_bytes() == b"late"
    )
    file.rename(tmp_path / "kept")
    os.mkfifo(file)  # blocks the move when it reads this file
    target = f"fs:{tmp_path / 'b'}"
    process = await start("storage", "move", "--from", url, "--to", target)
    await server.until(lambda: _is_read(file), 30)
    process.kill()
    await process.wait()
    file.unlink()
    (tmp_path / "kept").rename(file)
    copied = json.loads((await storage("info", "--storage", target, "--json")).out)["jobs"]
    assert 0 < sum(copied.values()) < 255
    again = await storage("move", "--from", url, "--to", target, "--json")
    assert json.loads(again.out) == {"kind": "StorageMove", "jobs": 255, "artifacts": 1}
    server = await serve(storage=target)
    assert await everything(server) == before


async def _is_read(fifo: Path) -> bool:
    """Return whether a process has opened the FIFO for reading."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


async def test_progress_of_a_move(tmp_path: Path) -> None:
    """A move reports its progress after each batch; if the target fails, earlier batches stay."""
    source, target = (open_driver(f"fs:{tmp_path / name}") for name in "ab")
    reported: list[tuple[int, int]] = []
    await source.start()
    await target.start()
    try:
        await source.enqueue([[NewJob(id=UUID(int=n + 1), type="t") for n in range(250)]])
        batches = 0
        load = target.load

        async def full(jobs: Sequence[StoredJob]) -> None:
            nonlocal batches
            batches += 1
            if batches == 2:
                raise StorageFull
            await load(jobs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, "load", full)
            with pytest.raises(StorageFull):
                await storages.move(source, target, None, None, lambda done, total: reported.append((done, total)))
        assert reported == [(100, 250)]
        assert sum((await target.info()).jobs.values()) == 100
        moved = await storages.move(source, target, None, None, lambda done, total: reported.append((done, total)))
        assert moved.jobs == 250
        assert reported[1:] == [(100, 250), (200, 250), (250, 250)]
        assert [one.new.id async for one in target.dump()] == [one.new.id async for one in source.dump()]
    finally:
        await source.close()
        await target.close()


async def test_a_move_without_a_directory_for_files(serve: Serve, tmp_path: Path) -> None:
    """A move of artifacts into a storage without a directory for them needs `--to-artifacts`."""
    url, _ = await filled(serve, tmp_path / "a")
    ended = await storage("move", "--from", url, "--to", "memory:")
    assert (ended.code, ended.out) == (1, "")
    assert "--to-artifacts" in ended.err
    files = tmp_path / "files"
    assert (await storage("move", "--from", url, "--to", "memory:", "--to-artifacts", str(files))).code == 0
    assert [one.read_bytes() for one in files.rglob("*") if one.is_file()] == [b"hello"]


async def test_migrating_what_is_not_there(tmp_path: Path) -> None:
    """`migrate` refuses a path without a storage and creates nothing, unless it is told to."""
    url = f"fs:{tmp_path / 'a'}"
    for _ in range(2):
        before = state_of(tmp_path)
        ended = await composerd("migrate", "--storage", url)
        assert ended == (1, "", f"composerd: there is no storage in {tmp_path / 'a'}\n")
        assert state_of(tmp_path) == before
        (tmp_path / "a").mkdir(exist_ok=True)
    assert await composerd("migrate", "--create", "--storage", url) == (0, "the storage was created\n", "")
    assert await composerd("migrate", "--create", "--storage", url) == (0, "the storage is up to date\n", "")


@pytest.mark.parametrize("damage", ["damaged", "newer"])
async def test_migrating_what_cannot_be_read(serve: Serve, tmp_path: Path, damage: str) -> None:
    """`migrate` refuses a storage that is damaged or of a newer format with the reason, and changes nothing."""
    url, _ = await filled(serve, tmp_path / "a")
    journal = tmp_path / "a" / "journal" / "00000001.log"
    data = bytearray(journal.read_bytes())
    if damage == "damaged":
        data[-100] ^= 1
    else:
        data[8] = 2
        data[28:32] = zlib.crc32(data[:28]).to_bytes(4, "little")
    journal.write_bytes(data)
    before = state_of(tmp_path / "a")
    for option in ([], ["--create"]):
        ended = await composerd("migrate", *option, "--storage", url)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert (f"{journal} at byte" if damage == "damaged" else "has format version 2") in ended.err
    assert state_of(tmp_path / "a") == before


@pytest.mark.row("Commands", "composerd migrate")
async def test_migrate(serve: Serve, tmp_path: Path) -> None:
    """A storage can be migrated repeatedly, also beside a server, and works afterwards."""
    url, before = await filled(serve, tmp_path / "a")
    assert await composerd("migrate", "--storage", url) == (0, "the storage is up to date\n", "")
    server = await serve(storage=url)
    assert await composerd("migrate", "--storage", url) == (0, "the storage is up to date\n", "")
    assert await everything(server) == before
