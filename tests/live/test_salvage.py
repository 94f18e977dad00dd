"""`composerd storage salvage`: what is whole in a damaged storage goes into a new one, and the rest is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, Server, send
from .test_storage import everything, filled, state_of, storage


async def salvaged(source: str, target: str, code: int) -> dict[str, Any]:
    """Salvage a storage, and return what the command says."""
    ended = await storage("salvage", "--storage", source, "--to", target, "--json")
    assert ended.code == code, (ended.out, ended.err)
    found: dict[str, Any] = json.loads(ended.out)
    assert found["whole"] is (code == 0)
    return found


async def with_jobs(serve: Serve, directory: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, object]]:
    """Fill a storage: a finished job with an artifact, a running one and a ready one; return them, and its attempt."""
    server = await serve(storage=f"fs:{directory}")
    done = await server.submit(args="done" * 50)
    job = await server.ask()
    assert job is not None
    await send(server, "PUT", job["artifact_location"] + "log.txt", b"hello")
    await server.finish(job, {"ok": "yes" * 50})
    running = await server.submit(args="running" * 50)
    attempt = await server.ask_and_confirm()
    ready = await server.submit(args="ready" * 50)
    shown = await everything(server)
    await server.close()
    return [done, running, ready], attempt, shown


def flip(directory: Path, text: bytes) -> Path:
    """Change a byte of the journal behind a text, and return the file."""
    path = directory / "journal" / "00000001.log"
    data = bytearray(path.read_bytes())
    data[data.index(text) + len(text) - 1] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.row("Commands", "composerd storage salvage")
@pytest.mark.parametrize("to", ["fs", "postgresql"])
async def test_an_intact_storage(serve: Serve, tmp_path: Path, newest_postgres: Throwaway, to: str) -> None:
    """An intact storage is copied whole, and the exit code is 0."""
    url, before = await filled(serve, tmp_path / "a")
    unchanged = state_of(tmp_path / "a" / "journal")
    target = f"fs:{tmp_path / 'b'}" if to == "fs" else newest_postgres.fresh()
    options = [] if to == "fs" else ["--to-artifacts", str(tmp_path / "files")]
    ended = await storage("salvage", "--storage", url, "--to", target, *options)
    assert (ended.code, ended.out) == (0, "Salvaged 4 jobs and 1 file.\n"), ended.err
    assert state_of(tmp_path / "a" / "journal") == unchanged
    server = await serve(*(options and ["--artifacts", options[1]]), storage=target)
    assert await everything(server) == before
    await server.close()
    again = await storage("salvage", "--storage", url, "--to", target, *options)
    assert (again.code, again.out, "has jobs: name a storage that does not exist, or remove" in again.err) == (
        1,
        "",
        True,
    )


@pytest.mark.row("Commands", "composerd storage salvage")
async def test_a_damaged_payload(serve: Serve, tmp_path: Path) -> None:
    """Damage in a result concerns only its job, and the attempts of others go on in the new storage."""
    jobs, attempt, before = await with_jobs(serve, tmp_path / "a")
    done = jobs[0]
    path = flip(tmp_path / "a", b"yesyes")
    refused = await storage("check", "--storage", f"fs:{tmp_path / 'a'}")
    assert refused.code == 1
    unchanged = state_of(tmp_path / "a")
    found = await salvaged(f"fs:{tmp_path / 'a'}", f"fs:{tmp_path / 'b'}", 1)
    assert state_of(tmp_path / "a") == unchanged
    assert (found["kind"], found["jobs"], found["artifacts"]) == ("StorageSalvage", 3, 1)
    file, job = found["damage"]
    assert (file["job_id"], f"{path} at byte " in file["problem"]) == (None, True)
    assert job == {
        "problem": "its result is damaged or missing, so it is stored as failed",
        "job_id": done["id"],
        "type": "build",
        "state": "failed",
        "lost": False,
        "harmless": False,
    }
    server = await serve(storage=f"fs:{tmp_path / 'b'}")
    after = await everything(server)
    assert {name: after[name] for name in before if done["id"] not in name} == {
        name: before[name] for name in before if done["id"] not in name
    }
    assert after[done["id"] + "/artifacts/log.txt"] == b"hello"
    assert "lost in a damaged storage" in str(after[done["id"] + "/result"])
    assert (await server.finish(attempt, {"ok": True}))[0] == 200


@pytest.mark.row("Commands", "composerd storage salvage")
async def test_a_damaged_entry(serve: Serve, tmp_path: Path) -> None:
    """After a gap, ended jobs are whole; those in doubt are canceled and named, and their attempts are over."""
    jobs, attempt, before = await with_jobs(serve, tmp_path / "a")
    done, running, ready = jobs
    flip(tmp_path / "a", bytes.fromhex(ready["id"].replace("-", "")))
    ended = await storage("salvage", "--storage", f"fs:{tmp_path / 'a'}", "--to", f"fs:{tmp_path / 'b'}")
    assert ended.code == 1
    assert ended.out.endswith("Salvaged 2 jobs and 1 file.\n")
    why = "its history has a gap: it may have run, ended or been deleted, so it is stored as canceled"
    assert f"job {running['id']} (build, canceled): {why}\n" in ended.out
    assert " (build, submitted): it is lost: " in ended.out
    assert ended.err == "composerd: the storage is damaged: 1 job incomplete, 1 known to be lost\n"
    server = await serve(storage=f"fs:{tmp_path / 'b'}")
    after = await everything(server)
    assert {name: one for name, one in after.items() if done["id"] in name} == {
        name: one for name, one in before.items() if done["id"] in name
    }
    assert (await server.job(running["id"]))["state"] == "canceled"
    assert (await server.request("GET", f"{COMPOSER}/jobs/{ready['id']}"))[0] == 404
    assert (await server.finish(attempt, {"ok": True}))[0] == 400
    assert await server.ask(wait="0s") is None


async def test_a_job_of_which_only_files_are_left(serve: Serve, tmp_path: Path) -> None:
    """If the journal has lost a job, its files still name it, and the check before that names the command."""
    jobs, _, _ = await with_jobs(serve, tmp_path / "a")
    (tmp_path / "a" / "journal" / "00000001.log").unlink()
    refused = await storage("check", "--storage", f"fs:{tmp_path / 'a'}")
    assert (refused.code, "`composerd storage salvage`" in refused.out) == (1, True)
    found = await salvaged(f"fs:{tmp_path / 'a'}", f"fs:{tmp_path / 'b'}", 1)
    file, job = found["damage"]
    assert (file["job_id"], job["job_id"], job["lost"]) == (None, jobs[0]["id"], True)
    assert job["problem"] == f"only files of it are left, in {tmp_path / 'a' / 'artifacts' / jobs[0]['id']}"


@pytest.mark.parametrize("damage", ["missing", "changed", "longer"])
async def test_a_damaged_artifact(serve: Serve, tmp_path: Path, damage: str) -> None:
    """A job whose artifact is missing or has another content is stored without it, and named."""
    url, _ = await filled(serve, tmp_path / "a")
    (file,) = (one for one in (tmp_path / "a" / "artifacts").rglob("*") if one.is_file())
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"hallo" if damage == "changed" else b"hello!")
    found = await salvaged(url, f"fs:{tmp_path / 'b'}", 1)
    (one,) = found["damage"]
    assert one["problem"] == f"its artifact 'log.txt' is {'missing' if damage == 'missing' else 'damaged'}: {file}"
    server = await serve(storage=f"fs:{tmp_path / 'b'}")
    assert (await server.request("GET", f"{COMPOSER}/jobs/{one['job_id']}/artifacts"))[1]["items"] == []
    assert not any(path.is_file() for path in (tmp_path / "b" / "artifacts").rglob("*"))


async def test_what_cannot_be_salvaged(serve: Serve, tmp_path: Path, newest_postgres: Throwaway) -> None:
    """A storage in use, a missing one, a database, and a target that is the source are errors that change nothing."""
    server = await serve(storage=f"fs:{tmp_path / 'a'}")
    await _one_job(server)
    cases = [
        (server.storage, f"fs:{tmp_path / 'b'}", "is in use by another composerd"),
        (f"fs:{tmp_path / 'none'}", f"fs:{tmp_path / 'b'}", "there is no storage"),
        (newest_postgres.fresh(), f"fs:{tmp_path / 'b'}", "composerd cannot salvage this storage"),
    ]
    for source, target, reason in cases:
        ended = await storage("salvage", "--storage", source, "--to", target)
        assert (ended.code, ended.out, reason in ended.err) == (1, "", True), ended.err
        assert not (tmp_path / "b").exists()
    await server.close()
    unchanged = state_of(tmp_path / "a")
    ended = await storage("salvage", "--storage", server.storage, "--to", server.storage)
    assert (ended.code, "is in use by another composerd" in ended.err) == (1, True), ended.err
    assert state_of(tmp_path / "a") == unchanged


async def _one_job(server: Server) -> None:
    await server.submit()
