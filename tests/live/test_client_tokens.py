"""The client, its commands and its worker with tokens: where they come from, where they go, and when they change."""

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from composerd_client import (
    ComposerClient,
    JobContext,
    RequestFailed,
    SyncComposerClient,
    Token,
    TokenFile,
    Worker,
)
from composerd_client.credentials import tokens

from .conftest import COMPOSER, Server, send
from .gate import Gate, gate
from .test_cli import composerd

FIRST, SECOND = "cmp_first.token", "cmp_second.token"


@pytest.fixture
async def guarded(server: Server) -> AsyncIterator[Gate]:
    """Return a gate before the server that accepts the first token."""
    async with gate(server) as found:
        found.accepted = {FIRST}
        yield found


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Return a file with the first token."""
    file = tmp_path / "token"
    file.write_text(FIRST + "\n")
    return file


def _write(file: Path, text: str) -> None:
    """Replace a file, as Kubernetes does."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds. Fail the test if it does not within 30 s."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "not true within 30 s"
        await asyncio.sleep(0.01)


async def test_every_request_has_the_token(guarded: Gate, token_file: Path, tmp_path: Path) -> None:
    """Submissions, waits, downloads, and all of a worker's requests have the token."""
    credentials = TokenFile(token_file)
    worker = Worker(guarded.url, arch="x86_64", credentials=credentials)

    @worker.handler("build")
    async def build(job: JobContext) -> None:
        await job.progress([1])
        await job.upload("log.txt", b"hello")

    async with ComposerClient(guarded.url, credentials=credentials) as composer:
        job = await composer.submit("build")
        await worker.run(jobs=1)
        job = await composer.wait(job.id)
        (artifact,) = await composer.artifacts(job.id)
        await composer.download(artifact, tmp_path / "files")
    assert job.state == "finished"
    assert guarded.refused == []
    assert {one.partition(" ")[0] for _, one in guarded.passed} == {"POST", "GET", "PATCH", "PUT", "DELETE"}


async def test_without_await(guarded: Gate) -> None:
    """The client without `await` takes credentials too."""

    def use() -> str:
        with SyncComposerClient(guarded.url, credentials=Token(FIRST)) as composer:
            return composer.whoami().role

    assert await asyncio.to_thread(use) == "admin"


async def test_a_file_that_changes(
    guarded: Gate, token_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new token in the file is used when the old one is refused or a second later; a broken file changes nothing."""
    caplog.set_level(logging.INFO, "composerd_client")
    async with ComposerClient(guarded.url, credentials=TokenFile(token_file)) as composer:
        assert [job async for job in composer.list()] == []
        _write(token_file, SECOND)
        guarded.accepted = {SECOND}
        assert [job async for job in composer.list()] == []
        assert len(guarded.refused) == 1
        monkeypatch.setattr(tokens, "_LOOK_EVERY", 0.0)
        _write(token_file, FIRST)
        guarded.accepted = {FIRST}
        assert [job async for job in composer.list()] == []
        assert len(guarded.refused) == 1
        caplog.clear()
        _write(token_file, "two\nlines")
        assert [job async for job in composer.list()] == []
        assert [job async for job in composer.list()] == []
        (line,) = caplog.messages
        assert "more than one line" in line
        assert "two" not in line


async def test_a_refused_token(guarded: Gate, token_file: Path) -> None:
    """A client whose token is refused says so at once, and has sent the request once, as there is no other token."""
    guarded.accepted = set()
    async with ComposerClient(guarded.url, patience=60, credentials=TokenFile(token_file)) as composer:
        with pytest.raises(RequestFailed, match="unknown token") as raised:
            await composer.submit("build")
    assert (raised.value.status, raised.value.number) == (401, 29)
    assert guarded.refused == [f"POST {COMPOSER}/jobs"]


async def test_a_wait_that_is_refused(server: Server, guarded: Gate, token_file: Path) -> None:
    """A wait for the end of a job goes on with the new token of the file."""
    job = await server.submit()
    guarded.ends_waits = asyncio.Event()
    async with ComposerClient(guarded.url, credentials=TokenFile(token_file)) as composer:
        waiting = asyncio.create_task(composer.wait(job["id"], timeout=30))
        await until(lambda: guarded.passed)
        _write(token_file, SECOND)
        guarded.accepted = {SECOND}
        guarded.ends_waits.set()
        await until(lambda: guarded.refused)
        attempt = await server.ask_and_confirm()
        await server.finish(attempt)
        assert (await waiting).state == "finished"


@pytest.mark.parametrize("error", [(401, 29), (403, 30), (400, 16)])
async def test_a_worker_keeps_its_job(
    server: Server, guarded: Gate, token_file: Path, error: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is not let in for a while keeps its job, says so in one line, and reports the result in the end."""
    guarded.error = error
    worker = Worker(guarded.url, arch="x86_64", credentials=TokenFile(token_file), concurrency=2)
    started, finished = asyncio.Event(), asyncio.Event()

    @worker.handler("build")
    async def build(job: JobContext) -> None:
        started.set()
        await finished.wait()
        await job.upload("log.txt", b"hello")
        await job.upload("large.txt", token_file)

    job = await server.submit()
    running = asyncio.create_task(worker.run())
    await started.wait()
    guarded.accepted = set()
    await until(lambda: guarded.refused)
    finished.set()
    await until(lambda: any(one.startswith("PUT") for one in guarded.refused))
    assert not running.done()
    guarded.accepted = {FIRST}
    ended = await server.job(job["id"], wait="30s")
    assert ended["state"] == "finished", ended
    worker.stop()
    await running
    said = [one for one in caplog.records if one.levelno >= logging.WARNING and "trying again" in one.getMessage()]
    assert len(said) == 1, caplog.messages
    assert "unknown token" in said[0].getMessage()


async def test_a_worker_that_is_never_let_in(guarded: Gate, token_file: Path) -> None:
    """A worker that is refused from the start ends with exit code 1, and says what to do."""
    guarded.accepted = set()
    ended = await composerd(
        "worker", "--type", "build", "--server", guarded.url, "--token-file", str(token_file), "--", "true"
    )
    assert ended.code == 1
    assert "unknown token" in ended.err
    assert "name a token that it knows: --token-file, COMPOSERD_TOKEN or `composerd login`" in ended.err


async def test_an_upload_is_begun_again(server: Server, guarded: Gate, token_file: Path, tmp_path: Path) -> None:
    """An upload that is refused because its token has expired is sent again as a whole, with the new token."""
    content = os.urandom(300_000)
    (tmp_path / "image").write_bytes(content)
    worker = Worker(guarded.url, arch="x86_64", credentials=TokenFile(token_file))

    @worker.handler("build")
    async def build(job: JobContext) -> None:
        guarded.accepted = {SECOND}
        _write(token_file, SECOND)
        await job.upload("image", tmp_path / "image")
        guarded.accepted = {FIRST}
        _write(token_file, FIRST)
        await job.upload("bytes", content)
        with (tmp_path / "image").open("rb") as file:
            guarded.accepted = {SECOND}
            _write(token_file, SECOND)
            await job.upload("file", file)

    job = await server.submit()
    await worker.run(jobs=1)
    _, listed = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/artifacts")
    assert [(one["name"], one["size"]) for one in listed["items"]] == [
        ("bytes", 300_000),
        ("file", 300_000),
        ("image", 300_000),
    ]
    assert any(one.startswith("PUT") for one in guarded.refused)


async def test_a_download_goes_on(server: Server, guarded: Gate, token_file: Path, tmp_path: Path) -> None:
    """A download whose token has expired gets the new one of the file, and so does one that broke off."""
    content = os.urandom(300_000)
    job = await server.submit()
    attempt = await server.ask_and_confirm()
    await send(server, "PUT", attempt["artifact_location"] + "image", content)
    await server.finish(attempt)
    async with ComposerClient(guarded.url, credentials=TokenFile(token_file)) as composer:
        (artifact,) = await composer.artifacts(job["id"])
        guarded.accepted = {SECOND}
        _write(token_file, SECOND)
        file = await composer.download(artifact, tmp_path / "files")
    assert await asyncio.to_thread(file.read_bytes) == content
    assert len(guarded.refused) == 1


@pytest.mark.parametrize("command", ["wait", "submit"])
async def test_a_command_that_waits(server: Server, guarded: Gate, token_file: Path, command: str) -> None:
    """The commands `wait` and `submit --wait` go on with the new token of the file."""
    given = ("--server", guarded.url, "--token-file", str(token_file))
    job = await server.submit() if command == "wait" else None
    what = ("submit", "build", "--wait") if job is None else ("wait", job["id"])
    running = asyncio.create_task(composerd(*what, *given))
    await until(lambda: any(one.startswith("GET") for _, one in guarded.passed))
    _write(token_file, SECOND)
    guarded.accepted = {SECOND}
    await server.finish(await server.ask_and_confirm())
    ended = await running
    assert (ended.code, "state\tfinished" in ended.out) == (0, True), ended


@pytest.mark.row("Commands", "composerd whoami")
async def test_whoami(server: Server, guarded: Gate, token_file: Path) -> None:
    """The command `whoami` says whom the server takes the user for; the token comes from a file or the environment."""
    ended = await composerd("whoami", server=server)
    assert (ended.code, ended.err) == (0, "")
    assert "everybody may do everything" in ended.out
    ended = await composerd("whoami", "--json", "--token-file", str(token_file), "--server", guarded.url)
    assert (ended.code, json.loads(ended.out)["role"]) == (0, "admin")
    ended = await composerd("whoami", "--server", guarded.url, COMPOSERD_TOKEN=FIRST)
    assert ended.code == 0
    ended = await composerd("whoami", "--server", guarded.url, COMPOSERD_TOKEN=SECOND)
    assert ended.code == 1
    assert "name a token that it knows" in ended.err
    guarded.error = (403, 30)
    ended = await composerd("jobs", "--server", guarded.url, COMPOSERD_TOKEN=SECOND)
    assert ended.code == 1
    assert "`composerd whoami` says who the server takes you for" in ended.err
    ended = await composerd("whoami", "--server", "http://composer.example.com", COMPOSERD_TOKEN=FIRST)
    assert ended.code == 2
    assert "--insecure-http" in ended.err
    assert FIRST not in ended.err


async def test_a_command_gets_no_secret(server: Server, guarded: Gate, tmp_path: Path) -> None:
    """The command of a job and the health check have no token in their environment."""
    seen = tmp_path / "seen"
    job = await server.submit()
    ended = await composerd(
        *("worker", "--type", "build", "--once", "--server", guarded.url, "--health-check", f"env >> {seen}"),
        *("--", "/bin/sh", "-c", "env"),
        COMPOSERD_TOKEN=FIRST,
    )
    assert ended.code == 0, ended
    output = (await server.job(job["id"]))["result"]["stdout"]
    assert "COMPOSERD_JOB_ID" in output
    assert FIRST not in output
    assert "PATH=" in seen.read_text()
    assert FIRST not in seen.read_text()
