"""A hostile server, and the clients that talk to it: the library, the commands, and the worker in POSIX shell."""

import asyncio
import contextlib
import errno
import gzip
import hashlib
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from composerd_client import ClientError, ComposerClient, JobContext, ProxyAnswered, UnexpectedAnswer, Worker
from composerd_client.values import Artifact

from ..live.test_cli import composerd
from ..live.test_shell_worker import PAGE
from .conftest import COMPOSER, WORKER

JOB = "12345678-1234-4123-8123-123456789abc"
TOKEN = "22222222-1234-4123-8123-123456789abc"
CONTENT = b"some bytes\n"

_ID = re.compile(rb'(X-Operation-Id: |"operation_id": ")ID')

Reply = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: Any = b"", status: int = 200, *headers: str) -> bytes:
    """Return an answer as it is sent, but for the request id; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "X-Operation-Id: ID", "Connection: close", *headers, "", ""]).encode() + data


def about(kind: str, path: str, id: str = "", **fields: Any) -> dict[str, Any]:
    """Return an object as composerd answers it."""
    return {"kind": kind, "href": path, "id": id, **fields}


def refusal(status: int) -> bytes:
    """Return an error of composerd."""
    return answer(about("Error", "", "0", reason=f"HTTP {status}", operation_id="ID"), status)


class Hostile:
    """A server on a real socket that gives a planned reply to each path, and notes what it has received."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        """The replies, by the beginning of `METHOD PATH`; the longest that fits is given."""
        self.received: list[tuple[str, bytes]] = []
        """The heads and bodies of the requests."""
        self.sent = 0
        """The number of bytes of an endless reply that were sent."""
        self.asked_again = asyncio.Event()
        """Set with the second request."""
        self.url = ""
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
            self.received.append((head, body))
            if len(self.received) == 2:
                self.asked_again.set()
            fitting = [begin for begin in self.replies if head.startswith(begin)]
            reply = self.replies[max(fitting, key=len)] if fitting else refusal(404)
            if isinstance(reply, bytes):
                writer.write(_ID.sub(rb"\g<1>%02d" % len(self.received), reply))
                await writer.drain()
            else:
                await reply(writer)
        writer.close()

    def endless(self, head: bytes) -> Reply:
        """Return a reply whose body never ends."""

        async def reply(writer: asyncio.StreamWriter) -> None:
            writer.write(head)
            chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
            while self.sent < 1 << 30:
                writer.write(chunk)
                await writer.drain()
                self.sent += len(chunk)

        return reply

    def offer(self, *names: str, content: bytes = CONTENT, href: str | None = None, job: str = JOB) -> None:
        """Have artifacts of these names."""
        path = f"{COMPOSER}/jobs/{job}/artifacts"
        digest = hashlib.sha256(content).hexdigest()
        items = [
            {"kind": "Artifact", "href": href or f"{path}/{number}", "id": name, "name": name}
            | {"size": len(content), "sha256": digest}
            for number, name in enumerate(names)
        ]
        self.replies[f"GET {path}"] = answer(about("ArtifactList", path, items=items))
        self.replies[f"GET {path}/"] = answer(content)

    def assign(self, **fields: Any) -> None:
        """Assign a job to whoever asks, with these fields changed."""
        location = f"{WORKER}/jobs/{TOKEN}"
        job = {"type": "a", "location": location, "artifact_location": f"{location}/artifacts/", **fields}
        self.replies[f"POST {WORKER}/jobs"] = answer(about("RequestJob", f"{WORKER}/jobs", JOB) | job, 201)
        self.replies[f"GET {location}"] = answer(about("JobStatus", location, TOKEN, canceled=False))
        self.replies[f"POST {location}/release"] = answer(about("UpdateJobResponse", location, TOKEN))


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Hostile]:
    """Start a hostile server."""
    hostile = Hostile()
    server = await asyncio.start_server(hostile.serve, "127.0.0.1", 0)
    hostile.address = "{}:{}".format(*server.sockets[0].getsockname())
    hostile.url = f"http://{hostile.address}"
    yield hostile
    server.close()


@pytest.fixture
async def hostile() -> AsyncIterator[Hostile]:
    """Start the server that the clients know."""
    async with serving() as one:
        yield one


@pytest.fixture
async def other() -> AsyncIterator[Hostile]:
    """Start a server that no client was told of. The test fails if one has contacted it."""
    async with serving() as one:
        yield one
        assert one.received == []


def files(directory: Path) -> set[str]:
    """Return the paths of everything below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


async def first_artifact(composer: ComposerClient) -> Artifact:
    """Return the first artifact of the job."""
    return (await composer.artifacts(JOB))[0]


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/b", "..", ".", "", ".bashrc", "a\\b", "a\nb", "a\x1b[2Jb", "a\x9bb", "\xe9" * 128]
)
async def test_names_that_lead_elsewhere(hostile: Hostile, tmp_path: Path, name: str) -> None:
    """A name that is not the name of a file in any directory creates nothing anywhere."""
    name = str(tmp_path / "x") if name == "/x" else name
    hostile.offer(name)
    (tmp_path / "in").mkdir()
    async with ComposerClient(hostile.url, patience=0) as composer:
        with pytest.raises(ClientError, match="the server names a file"):
            await composer.download(await first_artifact(composer), tmp_path / "in")
    assert files(tmp_path) == {"in"}


@pytest.mark.parametrize("name", ["../x", "\x1b]0;title\x07"])
async def test_the_command_writes_nowhere_else(hostile: Hostile, tmp_path: Path, name: str) -> None:
    """`composerd artifacts --download` stops at such a name, with one sentence that the terminal can show."""
    hostile.offer(name)
    ended = await composerd("artifacts", JOB, "--download", str(tmp_path / "in"), "--server", hostile.url)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("composerd: the server names a file")
    assert ended.err.rstrip("\n").isprintable()
    assert files(tmp_path) == {"in"}


async def test_ids_that_lead_elsewhere(hostile: Hostile, tmp_path: Path) -> None:
    """`composerd submit --graph --download` makes a directory for each job, but not for an id that is a path."""
    job: dict[str, Any] = dict.fromkeys(("arch", "not_before", "started_at", "finished_at", "worker_id", "expires_at"))
    job |= about("Job", f"{COMPOSER}/jobs/..", "..", type="a", channel="", state="finished", priority=0)
    job |= {
        "queued_at": "2026-01-31T12:00:00.000000Z",
        "retries": 0,
        "canceled": False,
        "dependencies": [],
        "idempotency_key": "k",
    }
    hostile.replies[f"POST {COMPOSER}/jobs/batch"] = answer(about("JobList", "", items=[job]), 201)
    hostile.replies["GET /api/composer/v1/jobs"] = answer(job)
    hostile.replies["GET /api/composer/v1/"] = answer(job)
    hostile.offer("x", job="..")
    hostile.replies["GET /api/composer/v1/artifacts"] = hostile.replies[f"GET {COMPOSER}/jobs/../artifacts"]
    graph = tmp_path / "graph.json"
    graph.write_text('[{"type": "a", "idempotency_key": "k"}]')
    command = ("submit", "--graph", str(graph), "--wait", "--download", str(tmp_path / "in"))
    ended = await composerd(*command, "--server", hostile.url)
    assert (ended.code, files(tmp_path)) == (1, {"graph.json"}), ended.err


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
async def test_existing_files_stay(hostile: Hostile, tmp_path: Path, kind: str) -> None:
    """A file or a link that exists is not touched; with `overwrite` it is replaced, and what a link leads to is not."""
    hostile.offer("a")
    directory, target = tmp_path / "in", tmp_path / "target"
    directory.mkdir()
    path = directory / "a"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(target)
        if kind == "link":
            target.write_text("mine")
    before = (path.is_symlink(), target.exists())
    ended = await composerd("artifacts", JOB, "--download", str(directory), "--server", hostile.url)
    assert ended.code == 1
    assert "--overwrite" in ended.err
    assert (path.is_symlink(), target.exists()) == before
    assert files(directory) == {"a"}
    ended = await composerd("artifacts", JOB, "--download", str(directory), "--overwrite", "--server", hostile.url)
    assert ended.code == 0, ended.err
    assert (path.is_symlink(), path.read_bytes(), files(directory)) == (False, CONTENT, {"a"})
    assert not target.exists() or target.read_text() == "mine"


async def test_downloads_without_hard_links(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links a download is whole or absent too, and replaces nothing."""

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    hostile.offer("a")
    async with ComposerClient(hostile.url, patience=0) as composer:
        artifact = await first_artifact(composer)
        path = await composer.download(artifact, tmp_path)
        assert (path.read_bytes(), files(tmp_path)) == (CONTENT, {"a"})
        path.write_text("mine")
        with pytest.raises(FileExistsError):
            await composer.download(artifact, tmp_path)
    assert (path.read_text(), files(tmp_path)) == ("mine", {"a"})


@pytest.mark.parametrize("how", ["damaged", "short", "long", "endless"])
async def test_a_broken_download_leaves_no_file(hostile: Hostile, tmp_path: Path, how: str) -> None:
    """If the bytes are not those that were listed, no file is left, and no more is read than was listed."""
    hostile.offer("a")
    hostile.replies[f"GET {COMPOSER}/jobs/{JOB}/artifacts/"] = {
        "damaged": answer(CONTENT.upper()),
        "short": answer(CONTENT)[:-3],
        "long": answer(CONTENT + b"x"),
        "endless": hostile.endless(b"HTTP/1.1 200 OK\r\nX-Operation-Id: e\r\nTransfer-Encoding: chunked\r\n\r\n"),
    }[how]
    async with ComposerClient(hostile.url, patience=0) as composer:
        with pytest.raises(ClientError):
            await composer.download(await first_artifact(composer), tmp_path)
    assert files(tmp_path) == set()
    assert hostile.sent < 50 << 20


def elsewhere(other: Hostile) -> dict[str, str]:
    """Return paths that lead to another server, or could."""
    return {
        "user": f"@{other.address}/x",
        "authority": f"//{other.address}/x",
        "URL": f"{other.url}/x",
        "port": f":{other.address.rpartition(':')[2]}/x",
        "backslash": f"/\\{other.address}/x",
        "line feed": "/x HTTP/1.1\r\nX: y",
        "nothing": "",
        "relative": "x",
    }


TRICKS = list(elsewhere(Hostile()))


async def refused_job(hostile: Hostile, caplog: pytest.LogCaptureFixture) -> str:
    """Let a worker ask for jobs until it has refused two answers, and return its log line, of which there is one."""
    worker = Worker(hostile.url, arch="x")
    worker.handler("a")(lambda job: job.args)
    running = asyncio.create_task(worker.run(jobs=1))
    async with asyncio.timeout(10):
        await hostile.asked_again.wait()
    worker.stop()
    await running
    paths = [head.split(" ", 2)[1].partition("?")[0] for head, _ in hostile.received]
    assert (set(paths[:-1]), paths[-1]) == ({f"{WORKER}/jobs"}, f"{WORKER}/workers/{worker.id}")  # it signs off
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return line


@pytest.mark.parametrize("trick", TRICKS)
async def test_an_href_elsewhere(hostile: Hostile, other: Hostile, tmp_path: Path, trick: str) -> None:
    """An artifact whose `href` is not a path on the server is not requested from anybody."""
    hostile.offer("a")
    list_of = f"GET {COMPOSER}/jobs/{JOB}/artifacts"
    items = [{"kind": "Artifact", "href": elsewhere(other)[trick], "id": "a", "name": "a", "size": 0, "sha256": ""}]
    hostile.replies[list_of] = answer(about("ArtifactList", list_of.removeprefix("GET "), items=items))
    async with ComposerClient(hostile.url, patience=0) as composer:
        with pytest.raises(UnexpectedAnswer, match="which is not a path on http://127"):
            await composer.download(await first_artifact(composer), tmp_path)
    assert len(hostile.received) == 1
    assert files(tmp_path) == set()


@pytest.mark.parametrize("trick", TRICKS)
async def test_a_location_elsewhere(
    hostile: Hostile, other: Hostile, trick: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker sends neither a heartbeat nor a result to a `location` that is not a path on the server."""
    hostile.assign(location=elsewhere(other)[trick])
    assert "which is not a path on" in await refused_job(hostile, caplog)


@pytest.mark.parametrize("trick", TRICKS)
async def test_an_artifact_location_elsewhere(hostile: Hostile, other: Hostile, trick: str) -> None:
    """A worker uploads nothing to an `artifact_location` that is not a path on the server."""
    hostile.assign(artifact_location=elsewhere(other)[trick])
    hostile.replies[f"PATCH {WORKER}/jobs/{TOKEN}"] = answer(about("UpdateJobResponse", "", TOKEN))
    worker = Worker(hostile.url, arch="x")

    @worker.handler("a")
    async def upload(job: JobContext) -> None:
        await job.upload("secret", b"secret")

    await worker.run(jobs=1)
    assert not any(head.startswith("PUT") for head, _ in hostile.received)
    reported = next(body for head, body in hostile.received if head.startswith("PATCH"))
    assert b"which is not a path on" in reported


async def test_a_job_that_was_not_requested(hostile: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is sent a job of another type does not run it, and asks again."""
    hostile.assign(type="\x1b[2J")
    assert r"of the type '\x1b" in await refused_job(hostile, caplog)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects(hostile: Hostile, other: Hostile, status: int) -> None:
    """Only a GET is redirected, and only on the same server: nothing is sent twice or to another one."""
    path = f"{COMPOSER}/jobs/{JOB}/args"
    async with ComposerClient(hostile.url, patience=0) as composer:
        hostile.replies[f"GET {path}"] = answer(b"", status, "Location: /elsewhere?x=1")
        hostile.replies["GET /elsewhere?x=1"] = answer({"found": 1})
        assert json.loads(await composer.args(JOB)) == {"found": 1}
        for target in (f"{other.url}/x", f"//{other.address}/x", f"https://{hostile.address}/x", ""):
            hostile.replies[f"GET {path}"] = answer(b"", status, f"Location: {target}")
            with pytest.raises(ProxyAnswered, match=f"{status} from a proxy"):
                await composer.args(JOB)
        hostile.replies[f"GET {path}"] = answer(b"", status, f"Location: {path}")
        with pytest.raises(ProxyAnswered, match=f"{status} from a proxy"):
            await composer.args(JOB)
        assert len(hostile.received) < 20
        for target in (f"{other.url}/x", "/elsewhere?x=1"):
            before = len(hostile.received)
            hostile.replies[f"POST {COMPOSER}/jobs"] = answer(b"", status, f"Location: {target}")
            with pytest.raises(ProxyAnswered, match=f"{status} from a proxy"):
                await composer.submit("a", args={"secret": 1})
            assert len(hostile.received) == before + 1


async def test_compressed_answers(hostile: Hostile, tmp_path: Path) -> None:
    """Nothing is decompressed: the client asks for no compression, and refuses a compressed answer or download."""
    bomb = gzip.compress(b" " * (100 << 20), 1)
    hostile.offer("a")
    async with ComposerClient(hostile.url, patience=0) as composer:
        artifact = await first_artifact(composer)
        for path in ("args", "artifacts/"):
            hostile.replies[f"GET {COMPOSER}/jobs/{JOB}/{path}"] = answer(bomb, 200, "Content-Encoding: gzip")
        with pytest.raises(UnexpectedAnswer, match="compressed"):
            await composer.args(JOB)
        with pytest.raises(UnexpectedAnswer, match="compressed"):
            await composer.download(artifact, tmp_path)
        hostile.replies[f"GET {COMPOSER}/jobs/{JOB}/args"] = answer(bomb, 500, "Content-Encoding: gzip")
        with pytest.raises(UnexpectedAnswer, match="compressed"):
            await composer.args(JOB)
    assert all(re.search(r"accept-encoding: identity\r", head, re.IGNORECASE) for head, _ in hostile.received)
    assert files(tmp_path) == set()


async def test_endless_answers(hostile: Hostile) -> None:
    """An answer that is larger than any of its kind is not read to its end, and one that says so not at all."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Operation-Id: ID\r\n"
    endless = head + b"Transfer-Encoding: chunked\r\n\r\n"
    async with ComposerClient(hostile.url, patience=0) as composer:
        hostile.replies[f"GET {COMPOSER}/workers"] = hostile.endless(endless.replace(b"ID", b"a"))
        with pytest.raises(UnexpectedAnswer, match="more than 64 MiB"):
            await composer.workers()
        assert hostile.sent < 100 << 20
        hostile.sent = 0
        hostile.replies[f"GET {COMPOSER}/workers"] = hostile.endless(endless.replace(b"200 OK", b"400 Bad"))
        with pytest.raises(ProxyAnswered, match="400 from a proxy"):
            await composer.workers()
        hostile.replies[f"GET {COMPOSER}/jobs/{JOB}/args"] = head + b"Content-Length: 1073741825\r\n\r\n"
        with pytest.raises(UnexpectedAnswer, match="more than 1 GiB"):
            await composer.args(JOB)
    assert hostile.sent < 50 << 20


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"items":' * 100_000, b'{"id": ' + b"9" * 60_000 + b"}", b'{"id": "' + b"9" * 60_000 + b'"}'],
)
@pytest.mark.parametrize("status", [200, 400])
async def test_json_that_breaks_decoders(hostile: Hostile, body: bytes, status: int) -> None:
    """JSON that is nested too deeply or has numbers without end raises an error of the client."""
    hostile.replies["GET"] = answer(body, status)
    async with ComposerClient(hostile.url, patience=0) as composer:
        with pytest.raises(ClientError):
            await composer.get(JOB)


async def test_proxies_of_the_environment(hostile: Hostile, other: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names gets nothing: it would see args and tokens."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url)
    hostile.offer("a")
    async with ComposerClient(hostile.url, patience=0) as composer:
        assert (await first_artifact(composer)).name == "a"


@pytest.mark.parametrize("ask", ["a job", "a status", "an end"])
async def test_a_server_that_does_not_wait(hostile: Hostile, ask: str) -> None:
    """A server that answers at once although it was asked to wait is asked about ten times a second, not more.

    The next request for a job is sent later, because the server may be stopping.
    """
    worker = Worker(hostile.url, arch="x")
    worker.handler("a")(lambda _job: time.sleep(0.5))
    if ask == "a job":
        hostile.replies["POST"] = answer(b"", 204)
    else:
        hostile.assign()
    job = about("Job", f"{COMPOSER}/jobs/{JOB}", JOB, type="", channel="", state="ready", priority=0, retries=0)
    absent = ("arch", "not_before", "started_at", "finished_at", "worker_id", "expires_at", "idempotency_key")
    hostile.replies["GET /api/composer"] = answer(
        dict.fromkeys(absent) | job | {"queued_at": "2026-01-31T12:00:00.000000Z", "canceled": False}
    )
    async with ComposerClient(hostile.url, patience=0) as composer:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await (composer.wait(JOB) if ask == "an end" else worker.run(jobs=1))
    assert (0 if ask == "a job" else 3) < len(hostile.received) < 15


@contextlib.asynccontextmanager
async def shell_worker(url: str, directory: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the worker of the page in a process group of its own."""
    script = re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert script is not None
    (directory / "worker.sh").write_text(script[1])
    process = await asyncio.create_subprocess_exec(
        *("sh", str(directory / "worker.sh"), url, "a", "cat"),
        start_new_session=True,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def until_said(worker: asyncio.subprocess.Process, text: bytes) -> None:
    """Wait until a worker has written a line with this text to stderr."""
    assert worker.stderr is not None
    async with asyncio.timeout(20):
        while text not in (line := await worker.stderr.readline()):
            assert line, "the worker has exited"


@pytest.mark.usefixtures("curl")
@pytest.mark.parametrize("trick", [trick for trick in TRICKS if trick != "line feed"])
async def test_the_shell_worker_goes_nowhere_else(hostile: Hostile, other: Hostile, tmp_path: Path, trick: str) -> None:
    """The worker in POSIX shell uses no `location` that is not a path on its server, and no proxy."""
    hostile.assign(location=elsewhere(other)[trick])
    async with shell_worker(hostile.url, tmp_path, http_proxy=other.url) as worker:
        await until_said(worker, b"not a path")
        assert await worker.wait() == 1
    assert len(hostile.received) == 1


@pytest.mark.usefixtures("curl")
async def test_the_shell_worker_follows_no_redirect(hostile: Hostile, other: Hostile, tmp_path: Path) -> None:
    """The worker in POSIX shell sends its request to no other server."""
    hostile.replies[f"POST {WORKER}/jobs"] = answer(b"", 307, f"Location: {other.url}/x")
    async with shell_worker(hostile.url, tmp_path) as worker:
        await until_said(worker, b"HTTP status 307")


@pytest.mark.usefixtures("curl")
async def test_the_shell_worker_reads_no_endless_answer(hostile: Hostile, tmp_path: Path) -> None:
    """The worker in POSIX shell stops reading an answer that does not end."""
    hostile.replies[f"POST {WORKER}/jobs"] = hostile.endless(
        b"HTTP/1.1 201 A\r\nX-Operation-Id: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    async with shell_worker(hostile.url, tmp_path) as worker:
        await until_said(worker, b"HTTP status 000")
    assert hostile.sent < 100 << 20
