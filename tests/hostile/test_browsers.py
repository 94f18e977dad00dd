"""Requests that a page of another site lets a browser make, and what browsers make of the answers."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from ..live.conftest import NOBODY, error, send
from .conftest import COMPOSER, WORKER, Attacker, Serve, Server, head

FORMS = ["text/plain", "multipart/form-data; boundary=x", "Application/X-WWW-Form-URLEncoded ; charset=utf-8"]
CHANGING = [
    ("POST", f"{WORKER}/jobs"),
    ("PATCH", f"{WORKER}/jobs/{NOBODY}"),
    ("POST", f"{WORKER}/jobs/{NOBODY}/release"),
    ("PUT", f"{WORKER}/jobs/{NOBODY}/artifacts/a"),
    ("POST", f"{WORKER}/workers"),
    ("POST", f"{WORKER}/workers/{NOBODY}/status"),
    ("POST", f"{COMPOSER}/jobs"),
    ("POST", f"{COMPOSER}/jobs/batch"),
    ("POST", f"{COMPOSER}/jobs/{NOBODY}/cancel"),
    ("DELETE", f"{COMPOSER}/jobs/{NOBODY}"),
]
READING = [
    ("GET", f"{COMPOSER}/jobs"),
    ("GET", f"{COMPOSER}/workers"),
    ("GET", f"{WORKER}/jobs/{NOBODY}"),
    ("GET", "/metrics"),
]
PUBLIC = [
    "/",
    "/healthz",
    "/readyz",
    *(base + path for base in (COMPOSER, WORKER) for path in ("/status", "/openapi", "/errors", "/errors/3")),
]
ELSEWHERE = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "OWN"},
]


@pytest.fixture
async def server(serve: Serve) -> Server:
    """Start a server."""
    return await serve()


async def test_forms(server: Server) -> None:
    """No operation that changes something takes a content type that a form can send."""
    for content_type in FORMS:
        for method, path in CHANGING:
            assert (await error(server, method, path, b"{}", Content_Type=content_type))[:2] == (415, 3), path


async def test_pages_of_other_sites(server: Server) -> None:
    """A request of a page of another site is refused, unless it reads what is public."""
    for sent in ELSEWHERE:
        headers = {name: server.url if value == "OWN" else value for name, value in sent.items()}
        for method, path in CHANGING + READING:
            assert (await error(server, method, path, **headers))[:2] == (403, 30), (path, headers)
        for path in PUBLIC:
            assert (await send(server, "GET", path, **headers))[0] == 200
            assert (await send(server, "HEAD", path, **headers))[0] == 200
            assert (await send(server, "POST", path, **headers))[0] == 403


@pytest.mark.parametrize("headers", [{"Origin": "OWN"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}])
async def test_pages_of_the_server(server: Server, headers: dict[str, str]) -> None:
    """A request that a page of the server makes, or the person at the browser, is taken."""
    sent = {name: server.url if value == "OWN" else value for name, value in headers.items()}
    assert (await send(server, "GET", f"{COMPOSER}/jobs", **sent))[0] == 200
    body = b'{"type":"build"}'
    assert (await send(server, "POST", f"{COMPOSER}/jobs", body, Content_Type="application/json", **sent))[0] == 201


async def test_headers_of_every_answer(server: Server) -> None:
    """Every answer tells browsers to run nothing, and caches to store nothing: errors, jobs, files, malformed HTTP."""
    await server.submit("big", args="x" * 300_000)
    body = b'{"types":["big"],"arch":"x"}'
    _, headers, given = await send(server, "POST", f"{WORKER}/jobs", body, Content_Type="application/json")
    heads = [headers]
    attempt = json.loads(given)
    for method, path, data in (
        ("PUT", attempt["artifact_location"] + "file", b"<script>"),
        ("GET", attempt["location"], None),
        ("PATCH", attempt["location"], b'{"result":{}}'),
        ("GET", f"{COMPOSER}/jobs/{attempt['id']}/artifacts/file", None),
        ("GET", f"{COMPOSER}/jobs/{attempt['id']}/args", None),
        ("DELETE", f"{COMPOSER}/jobs/{attempt['id']}", None),
        ("POST", f"{WORKER}/jobs?wait=1ms", body),
        ("GET", f"{COMPOSER}/nothing", None),
        ("GET", "/", None),
        ("GET", "/metrics", None),
        ("FOO", "/", None),
    ):
        heads.append((await send(server, method, path, data, Content_Type="application/json"))[1])
    assert {one["X-Content-Type-Options"] for one in heads} == {"nosniff"}
    assert {one["Content-Security-Policy"] for one in heads} == {"default-src 'none'; frame-ancestors 'none'"}
    assert Counter(one["Cache-Control"] for one in heads) == {"no-store": 11, "private, no-cache": 1}


@pytest.mark.parametrize(
    ("target", "hosts", "status"),
    [
        ("/metrics", ["composer.example.com"], 200),
        ("/metrics", ["Composer.Example.com:8700"], 200),
        ("/metrics", ["a.workers.example.com"], 200),
        ("/metrics", ["[::1]:8700"], 200),
        ("/metrics", ["[::1]"], 200),
        ("/metrics", ["127.0.0.1:80"], 200),
        ("http://composer.example.com/metrics", ["composer.example.com"], 200),
        ("/healthz", ["10.0.0.7"], 200),
        ("/metrics", ["evil.example"], 403),
        ("/metrics", ["evil.example:8700"], 403),
        ("/metrics", ["composer.example.com.evil.example"], 403),
        ("/metrics", ["composer.example.com@evil.example"], 403),
        ("/metrics", ["[::2]"], 403),
        ("/metrics", [""], 403),
        ("/metrics", [], 403),
        ("http://evil.example/metrics", ["composer.example.com"], 403),
        ("http://composer.example.com/metrics", ["evil.example"], 403),
        ("/readyz", ["evil.example"], 403),
    ],
)
async def test_allowed_hosts(
    serve: Serve, attacker: Callable[..., Attacker], target: str, hosts: list[str], status: int
) -> None:
    """With `allowed_hosts`, a request that names another host is refused with error 30, except for `/healthz`."""
    allowed = ("composer.example.com", "*.workers.example.com", "[::1]", "127.0.0.1")
    server = await serve(*(part for one in allowed for part in ("--allowed-hosts", one)), storage="memory:")
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    version = "1.1" if hosts else "1.0"
    sent = f"GET {target} HTTP/{version}\r\n{lines}Connection: close\r\n\r\n"
    reader, _ = await attacker(server).connect(sent.encode())
    async with asyncio.timeout(20):
        answer = await reader.read()
    assert int(answer.split()[1]) == status
    assert status == 200 or b'"id":"30"' in answer


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "anything"])
async def test_an_upgrade_that_is_not_taken(server: Server, attacker: Callable[..., Attacker], protocol: str) -> None:
    """The connection is closed after the answer to a request for another protocol, and what follows is ignored."""
    sent = head("GET", f"{COMPOSER}/status", "Connection: Upgrade", f"Upgrade: {protocol}", "Sec-WebSocket-Version: 13")
    reader, _ = await attacker(server).connect(sent + head("GET", f"{COMPOSER}/errors"))
    async with asyncio.timeout(20):
        answer = await reader.read()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer


PAGE = """<!doctype html><iframe name="sink"></iframe>
<form method="post" target="sink" action="SERVER/api/composer/v1/jobs/JOB/cancel"></form>
<script>
  document.forms[0].submit();
  const tries = [
    fetch("SERVER/api/composer/v1/jobs/JOB/cancel", {method: "POST", mode: "no-cors"}),
    fetch("SERVER/api/composer/v1/jobs/JOB/cancel", {method: "POST", mode: "no-cors", body: "{}"}),
    fetch("SERVER/api/composer/v1/jobs", {method: "POST", body: '{"type":"x"}',
          headers: {"Content-Type": "application/json"}}),
    fetch("SERVER/api/composer/v1/jobs/JOB", {method: "DELETE"}),
    fetch("SERVER/api/composer/v1/jobs"),
  ];
  Promise.allSettled(tries).then(() => setTimeout(() => fetch("/done"), 300));
</script>"""


@asynccontextmanager
async def other_site(page: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Serve a page on an address of its own; yield its URL, and an event that its script sets at the end."""
    done = asyncio.Event()

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    async def finish(_: web.Request) -> web.Response:
        done.set()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", show)
    app.router.add_get("/done", finish)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", done
    finally:
        await runner.cleanup()


async def test_a_page_in_a_real_browser(server: Server, chromium: str, tmp_path: Path) -> None:
    """A page of another site that is open in a browser on the same machine changes nothing and reads nothing."""
    job = await server.submit()
    async with other_site(PAGE.replace("SERVER", server.url).replace("JOB", job["id"])) as (url, done):
        options = (
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={tmp_path / 'profile'}",
        )
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        process = await asyncio.create_subprocess_exec(
            chromium, *options, *sandbox, url, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(60):
                await done.wait()
        finally:
            process.terminate()
            await process.wait()
    assert (await server.job(job["id"]))["state"] == "ready"
    _, text = await server.request("GET", "/metrics")
    refused = [line for line in text.decode().splitlines() if 'status="403"' in line or 'code="403"' in line]
    assert refused
