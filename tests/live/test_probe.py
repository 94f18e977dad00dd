"""The command `composerd probe` without a proxy, below a prefix, and at something that is not composerd."""

import asyncio
import contextlib
import json
import select
import signal
import socket
import ssl
import uuid
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from composerd.probe import Target

from ..tokens import new
from .conftest import COMPOSER, LOOPBACK, Serve
from .test_cli import composerd, start
from .test_output import shell
from .test_tls import Files

QUICK = ("--wait", "2s", "--waiters", "20", "--size", "1MiB")
FAST = ("--handover-timeout", "1s", "--sweep-interval", "1s")


@pytest.mark.row("Commands", "composerd probe")
async def test_probe(serve: Serve) -> None:
    """A probe of a server finds nothing wrong, prints a line for each check, and leaves no job."""
    server = await serve(*FAST)
    probed = await composerd("probe", server.url, *QUICK)
    assert (probed.code, probed.err) == (0, "")
    lines = probed.out.splitlines()
    assert len(lines) == 17
    assert all(line.startswith("ok    ") for line in lines)
    assert b"went unanswered" not in server.log  # a hand-over without an answer is one of the checks
    assert (await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"] == []


async def test_probe_below_a_base_path(serve: Serve) -> None:
    """A probe below a base path finds nothing wrong, and beside it no composerd; a terminal gets short lines."""
    server = await serve(*FAST, "--base-path", "/builds")
    probed = await composerd("probe", f"{server.url}/builds", *QUICK)
    assert probed.code == 0, probed.out
    assert "ok    paths in answers: begin with /builds/api/worker/v1/" in probed.out
    probed = await composerd("probe", server.url, *QUICK)
    assert probed.code == 1
    assert "wrong the answers are composerd's: GET /api/worker/v1/status: 404 from composerd" in probed.out
    terminal = await composerd("probe", server.url, *QUICK, FORCE_COLOR="1", COLUMNS="60")
    assert terminal.out.split() == probed.out.split()
    assert max(map(len, terminal.out.splitlines())) <= 60


async def test_probe_with_credentials(serve: Serve, tmp_path: Path) -> None:
    """A probe needs the token of an administrator, and says so at once; a proxy that takes it away is wrong."""
    tokens = tmp_path / "tokens"
    files = {role: tmp_path / role for role in ("admin", "worker")}
    for role, file in files.items():
        file.write_text(new(tokens, f"probe-{role}", role))
    server = await serve(*FAST, "--tokens", str(tokens))
    probed = await composerd("probe", server.url, *QUICK, "--token-file", str(files["admin"]))
    assert (probed.code, "wrong" in probed.out) == (0, False), probed.out
    for given, seen in (
        ((), "401 from composerd: Not authenticated: there are no credentials"),
        (("--token-file", str(files["worker"])), "it takes the probe for a worker"),
    ):
        probed = await composerd("probe", server.url, *QUICK, *given)
        assert probed.code == 1
        assert probed.out.splitlines()[1:] == [
            f"wrong the server lets the probe do its work: {seen}",
            "      name the token of an admin with --token-file: a probe submits jobs, and works on them",
        ]

    async def taking_away(request: web.Request) -> web.Response:
        status, body = await server.request(request.method, request.path_qs)
        return web.json_response(body, status=status, headers={"X-Operation-Id": uuid.uuid4().hex})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", taking_away)
    async with TestServer(app) as proxy:
        probed = await composerd("probe", str(proxy.make_url("")), *QUICK, "--token-file", str(files["admin"]))
    assert probed.code == 1
    assert "make the proxy pass the header Authorization on: it takes the token away" in probed.out


async def test_probe_without_artifacts(serve: Serve) -> None:
    """A probe of a server that accepts no artifacts tries no uploads, and finds nothing wrong."""
    server = await serve(*FAST, "--artifacts", "none")
    probed = await composerd("probe", server.url, *QUICK)
    assert probed.code == 0, probed.out
    assert "ok    uploads: not tried, because the server accepts no artifacts\n" in probed.out


async def test_probe_of_something_else() -> None:
    """A probe of a server that is not composerd says so, and who it is."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="Welcome", headers={"Server": "nginx/1.22.1"})

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    async with TestServer(app) as other:
        probed = await composerd("probe", str(other.make_url("")), *QUICK, "--json")
    assert probed.code == 1
    (finding,) = json.loads(probed.out)
    assert finding["outcome"] == "wrong"
    assert finding["seen"] == "GET /api/worker/v1/status: 200 from a proxy (nginx), not from composerd"


@pytest.mark.parametrize(
    "body",
    ["{", "[]", '{"id": "x", "location": "//evil", "items": 3}', f'{{"reason": "{"x" * 100_000}"}}'],
    ids=["no JSON", "a list", "other values", "a long text"],
)
async def test_probe_of_a_server_that_answers_nonsense(body: str) -> None:
    """A probe of a server whose answers are not those of composerd ends with findings, not with a traceback."""

    async def nonsense(request: web.Request) -> web.Response:
        status = 200 if request.method == "GET" else 201
        headers = {"X-Operation-Id": "1", "Content-Type": "application/json"}
        return web.Response(status=status, text=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", nonsense)
    async with TestServer(app) as other:
        probed = await composerd("probe", str(other.make_url("")), "--wait", "1s", "--waiters", "3", "--size", "1KiB")
    assert probed.code == 1
    assert "wrong many workers: " in probed.out
    assert len(probed.out) < 20_000


async def test_an_answer_without_an_end() -> None:
    """A probe gives up an answer that says it is huge, however fast it comes, without reading it into memory."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n")
            while True:
                writer.write(bytes(100_000))
                await writer.drain()

    async with await asyncio.start_server(endless, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        probed = await composerd("probe", f"http://{host}:{port}", *QUICK)
    assert probed.code == 1
    assert "the other side sent an answer that is too large" in probed.out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
async def test_interrupt(serve: Serve, number: signal.Signals, code: int) -> None:
    """A probe that is interrupted or terminated removes its jobs."""
    server = await serve()
    process = await start("probe", server.url)

    async def begun() -> bool:
        return len((await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"]) > 3

    await server.until(begun)
    process.send_signal(number)
    _, err = await process.communicate()
    assert (process.returncode, err.strip()) == (code, b"")
    assert (await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"] == []


async def test_probe_of_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    """A probe works on a unix socket."""
    await serve(*FAST, "--listen", f"unix:{tmp_path / 'socket'}")
    probed = await composerd("probe", f"unix:{tmp_path / 'socket'}", *QUICK)
    assert probed.code == 0, probed.out


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("http://127.0.0.1:1", "--wait", "soon"), ("http://127.0.0.1:1", "--waiters", "0"), ()],
    ids=["URL", "wait", "waiters", "nothing"],
)
async def test_probe_with_wrong_arguments(arguments: tuple[str, ...]) -> None:
    """Wrong arguments of a probe exit with 2."""
    assert (await composerd("probe", *arguments)).code == 2


async def test_probe_of_nothing() -> None:
    """A probe of an address where nothing listens exits with 3."""
    probed = await composerd("probe", "http://127.0.0.1:1")
    assert (probed.code, probed.out) == (3, "")


async def test_bounds_of_the_server(serve: Serve) -> None:
    """A probe tells bounds of the server itself from those of a proxy."""
    server = await serve(
        *FAST, "--max-waits", "10", "--request-job-timeout", "1s", "--artifacts", "none", storage="memory:"
    )
    probed = await composerd("probe", server.url, *QUICK)
    assert probed.code == 1
    assert (
        "from composerd: Unavailable, try again\n      raise --max-waits and --max-connections of the server"
        in probed.out
    )
    probed = await composerd("probe", server.url, *QUICK[2:], "--waiters", "5", "--wait", "11m")
    assert probed.code == 1
    assert "      choose a shorter --wait, or raise --max-wait of the server\n" in probed.out


async def test_a_reader_that_goes(serve: Serve) -> None:
    """A probe whose lines nobody reads any more ends, says nothing of it, and leaves no job."""
    server = await serve(*FAST)
    script = '"$@" | head -n 1; exit ${PIPESTATUS[0]}'
    ended = await shell(server, script, "probe", server.url, *QUICK)
    assert (ended.returncode, ended.stderr) == (1, b"")
    assert ended.stdout.startswith(b"ok    the answers are composerd's")
    assert (await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"] == []


async def test_probe_with_tls(serve: Serve, tmp_path: Path) -> None:
    """A probe of a server with TLS finds nothing wrong either."""
    files = Files(tmp_path)
    server = await serve(*FAST, *files.server_options)
    probed = await composerd("probe", server.url, *QUICK, "--ca-file", files.ca_file)
    assert (probed.code, "wrong" in probed.out, probed.err) == (0, False, ""), probed.out


async def test_a_worker_that_leaves_with_tls(tmp_path: Path) -> None:
    """The connection is closed at once, also if the other side does not answer the end of TLS, as nginx does not."""
    files = Files(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.path("server.pem"), files.path("server.key"))
    with socket.create_server((LOOPBACK, 0)) as listening:

        def serve() -> object:
            with context.wrap_socket(listening.accept()[0], server_side=True) as connection:
                poll = select.poll()
                poll.register(connection, select.POLLRDHUP)
                return poll.poll(5000)

        serving = asyncio.create_task(asyncio.to_thread(serve))
        target = Target(f"https://{LOOPBACK}:{listening.getsockname()[1]}", {"ca_file": files.ca_file})
        await (await target.open()).close()
        assert await serving
