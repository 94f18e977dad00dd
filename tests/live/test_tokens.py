"""A server that wants tokens, while its tokens file changes."""

# ruff: noqa: ASYNC240  # the files are small, and nobody else waits for the loop

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ..throwaway import Throwaway
from ..tokens import bearer, new, revoke
from .conftest import COMPOSER, WORKER, Serve, Server, error, until_waiting
from .test_cli import composerd

WITHIN = 2.0
"""Seconds within which a change of the file is in force."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a tokens file."""
    return tmp_path / "tokens"


async def whoami(server: Server, token: str) -> tuple[int, Any]:
    """Ask the server whose a token is."""
    return await server.request("GET", f"{COMPOSER}/whoami", headers=bearer(token))


async def soon(server: Server, holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a change of the file is in force, which must be within two seconds."""
    await server.until(holds, WITHIN)


@pytest.mark.row("Settings", "--tokens")
async def test_tokens(serve: Serve, path: Path) -> None:
    """A server with a tokens file knows who has a token, and refuses everybody else."""
    worker, ops = new(path, "builder-7", "worker", "acme"), new(path, "ops", "admin")
    server = await serve("--tokens", str(path))
    assert await error(server, "GET", f"{COMPOSER}/jobs") == (401, 29, {"problem": "there are no credentials"})
    status, known = await whoami(server, worker)
    assert status == 200
    assert {name: known[name] for name in ("name", "role", "tenant", "channel", "source", "expires_at")} == {
        "name": "builder-7",
        "role": "worker",
        "tenant": "acme",
        "channel": "org-acme",
        "source": "token",
        "expires_at": None,
    }
    for wrong, problem in (
        (worker[:-1], "the token has a typing error: it has 53 characters and not 54"),
        (worker[:-1] + ("a" if worker[-1] != "a" else "b"), "the token has a typing error: its checksum is wrong"),
        (new(path.with_name("other"), "a", "admin"), "nobody has this token"),
    ):
        refused = await error(server, "GET", f"{COMPOSER}/jobs", **bearer(wrong))
        assert refused == (401, 29, {"problem": problem})
    for value in (ops, f"Basic {ops}"):
        problem = "the Authorization header has no bearer token: write Authorization: Bearer TOKEN"
        refused = await error(server, "GET", f"{COMPOSER}/jobs", Authorization=value)
        assert refused == (401, 29, {"problem": problem})
    problem = "this needs the role submitter, viewer or admin"
    refused = await error(server, "GET", f"{COMPOSER}/jobs", **bearer(worker))
    assert refused == (403, 30, {"operation": "listJobs", "role": "worker", "problem": problem})
    assert (await server.request("GET", f"{COMPOSER}/jobs", headers=bearer(ops)))[0] == 200


async def test_changes(serve: Serve, path: Path) -> None:
    """A token that is added works at once, and one that is rotated or revoked ends within two seconds."""
    first = new(path, "builder-7", "worker")
    server = await serve("--tokens", str(path))
    second = new(path, "ops", "admin")

    assert (await whoami(server, second))[0] == 200  # a new one at once

    async def refuses_first() -> bool:
        return (await whoami(server, first))[0] == 401

    assert (await whoami(server, first))[0] == 200
    rotated = await composerd("token", "rotate", "builder-7", "--overlap", "0s", "--tokens", str(path))
    await soon(server, refuses_first)
    problem = {"problem": "the token of builder-7 has expired"}
    assert await error(server, "GET", f"{COMPOSER}/whoami", **bearer(first)) == (401, 29, problem)
    third = rotated.out.strip()
    assert (await whoami(server, third))[1]["name"] == "builder-7"
    revoke(path, "ops")

    async def refuses_second() -> bool:
        return (await whoami(server, second))[0] == 401

    await soon(server, refuses_second)
    problem = {"problem": "the token of ops is revoked"}
    assert await error(server, "GET", f"{COMPOSER}/whoami", **bearer(second)) == (401, 29, problem)
    server.kill()
    await server.start()
    assert [(await whoami(server, token))[0] for token in (first, second, third)] == [401, 401, 200]


async def test_broken_file(serve: Serve, path: Path) -> None:
    """A file with a mistake changes nothing, and the log and `/readyz` say so until it is mended."""
    worker, monitor = new(path, "builder-7", "worker"), new(path, "prometheus", "monitor")
    server = await serve("--tokens", str(path))
    whole = path.read_bytes()
    path.write_bytes(b"name=builder-7 role=king\n" + whole)
    problem = (
        "tokens: the file cannot be used, so its previous version stays in force: "
        "line 1: hash is missing, or what else the line is to change: revoked or expires"
    )

    async def readiness(token: str | None = None) -> bytes:
        headers = {} if token is None else bearer(token)
        status, text = await server.request("GET", "/readyz", headers=headers)
        assert status == 200
        return bytes(text)

    async def says_so() -> bool:
        return await readiness(monitor) == f"ready\n{problem}\n".encode()

    await soon(server, says_so)
    assert await readiness() == b"ready\n"
    assert (await whoami(server, worker))[0] == 200
    assert server.log.count(f"cannot use {path}, so its previous version stays in force: line 1".encode()) == 1
    path.write_bytes(whole)

    async def is_mended() -> bool:
        return await readiness(monitor) == b"ready\n"

    await soon(server, is_mended)
    assert (await whoami(server, worker))[0] == 200
    path.unlink()
    await server.until(lambda: _logged(server, f"cannot use {path}, so its previous version stays in force: No such"))
    assert (await whoami(server, worker))[0] == 200


async def _logged(server: Server, text: str) -> bool:
    return text.encode() in server.log


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        ("name=a\n", "cannot be used: line 1: hash is missing, or what else the line is to change: revoked or expires"),
    ],
    ids=["missing", "broken"],
)
async def test_start(path: Path, tmp_path: Path, content: str | None, reason: str) -> None:
    """A file that is missing or has a mistake refuses the start with one sentence."""
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)
    options = ("--listen", "127.0.0.1:0", "--tokens", str(path))
    ended = await composerd("serve", *options, "--storage", f"fs:{tmp_path / 'storage'}")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"{path} {reason}" in ended.err
    assert not (tmp_path / "storage").exists()


async def test_expiry(serve: Serve, path: Path) -> None:
    """A token works until the second in which it expires, also if it was used before."""
    new(path, "ops", "admin")
    server = await serve("--tokens", str(path))
    expires = int(time.time()) + 2
    token = new(path, "builder-7", "worker", expires=expires)
    status, known = await whoami(server, token)
    assert (status, known["source"]) == (200, "token")

    async def has_expired() -> bool:
        return (await whoami(server, token))[0] == 401

    await server.until(has_expired)
    assert 0 <= time.time() - expires < 1


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_end_of_a_token_in_a_wait(serve: Serve, path: Path, end: str) -> None:
    """A job is not handed over to a request whose token has ended while it waited, and that counts no retry.

    A request that waits for the end of a job, or for news of an attempt, learns nothing either.
    """
    expires = int(time.time()) + 3 if end == "expired" else None
    builder, reader = new(path, "builder-7", "worker", expires=expires), new(path, "reader", "viewer", expires=expires)
    other, ops = new(path, "builder-8", "worker"), new(path, "ops", "admin")
    server = await serve("--tokens", str(path))
    running = (await server.request("POST", f"{COMPOSER}/jobs", {"type": "b"}, headers=bearer(ops)))[1]
    asked = {"types": ["b"], "arch": "x86_64"}
    _, attempt = await server.request("POST", f"{WORKER}/jobs", asked, headers=bearer(builder))
    waiting = [
        asyncio.create_task(
            server.request("POST", f"{WORKER}/jobs", {**asked, "types": ["a"]}, headers=bearer(builder))
        ),
        asyncio.create_task(server.request("GET", f"{attempt['location']}?wait=30s", headers=bearer(builder))),
        asyncio.create_task(server.request("GET", f"{running['href']}?wait=30s", headers=bearer(reader))),
    ]
    await until_waiting(server, 3, headers=bearer(ops))
    if end == "revoked":
        for name in ("builder-7", "reader"):
            revoke(path, name)

    async def is_over() -> bool:
        return {(await whoami(server, token))[0] for token in (builder, reader)} == {401}

    await server.until(is_over)
    _, job = await server.request("POST", f"{COMPOSER}/jobs", {"type": "a", "max_retries": 0}, headers=bearer(ops))
    await server.request("POST", f"{running['href']}/cancel", headers=bearer(ops))
    for status, body in await asyncio.gather(*waiting):
        assert (status, body["id"]) == (401, "29")
    status, handed = await server.request("POST", f"{WORKER}/jobs", {**asked, "types": ["a"]}, headers=bearer(other))
    assert (status, handed["id"]) == (201, job["id"])
    _, shown = await server.request("GET", job["href"], headers=bearer(ops))
    assert (shown["state"], shown["retries"]) == ("running", 0)


async def test_revoked_while_the_body_arrives(serve: Serve, path: Path) -> None:
    """A request whose body is complete only after its token was revoked does nothing."""
    token, ops = new(path, "ci", "submitter"), new(path, "ops", "admin")
    server = await serve("--tokens", str(path))
    host, _, port = server.url.partition("://")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"type":"build"}'
    head = f"POST {COMPOSER}/jobs HTTP/1.1\r\nHost: composerd\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
    assert (await whoami(server, token))[0] == 200
    await asyncio.sleep(1.5)  # so that the body takes long
    revoke(path, "ci")

    async def is_revoked() -> bool:
        return (await whoami(server, token))[0] == 401

    await soon(server, is_revoked)
    writer.write(body[-1:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()
    _, listed = await server.request("GET", f"{COMPOSER}/jobs", headers=bearer(ops))
    assert listed["items"] == []


async def test_revoked_while_earlier_answers_are_not_read(serve: Serve, path: Path) -> None:
    """A request that waits until its client reads earlier answers does nothing if its token is revoked meanwhile."""
    token, ops = new(path, "ci", "submitter"), new(path, "ops", "admin")
    server = await serve("--tokens", str(path))
    host, _, port = server.url.partition("://")[2].rpartition(":")
    loop = asyncio.get_running_loop()
    body = b'{"type":"build"}'
    head = f"POST {COMPOSER}/jobs HTTP/1.1\r\nHost: composerd\r\nContent-Type: application/json\r\n"
    requests = f"GET {COMPOSER}/openapi HTTP/1.1\r\nHost: composerd\r\n\r\n".encode()  # with a large answer
    requests += f"{head}Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def stored() -> int:
        text = (await server.request("GET", "/metrics", headers=bearer(ops)))[1].decode()
        return sum(int(float(one)) for one in re.findall(r'composerd_jobs\{state="\w+"\} (\S+)', text))

    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.setblocking(False)
        sending = asyncio.create_task(loop.sock_sendall(connection, requests * 2000))
        before = -1
        while (now := await stored()) != before or not now:  # until the answers fill every buffer
            before = now
            await asyncio.sleep(1.1)  # the metrics are computed once a second
        assert before < 2000
        revoke(path, "ci")

        async def is_revoked() -> bool:
            return (await whoami(server, token))[0] == 401

        await soon(server, is_revoked)
        found = b""
        while b"HTTP/1.1 401 " not in found:
            found += await loop.sock_recv(connection, 65536)
        sending.cancel()
    assert found.count(b"HTTP/1.1 201 ") == before == await stored()


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_end_of_a_token_in_an_upload(serve: Serve, path: Path, end: str) -> None:
    """An upload ends soon after its token was revoked; it goes on if the token expires, because it may take long."""
    ops = new(path, "ops", "admin")
    server = await serve("--tokens", str(path), "--artifacts", f"{path}-files", "--handover-timeout", "1s")
    token = new(path, "builder-7", "worker", expires=int(time.time()) + 3 if end == "expired" else None)
    await server.request("POST", f"{COMPOSER}/jobs", {"type": "a"}, headers=bearer(ops))
    asked = {"types": ["a"], "arch": "x86_64"}
    _, attempt = await server.request("POST", f"{WORKER}/jobs", asked, headers=bearer(token))
    host, _, port = server.url.partition("://")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT {attempt['artifact_location']}log HTTP/1.1\r\nHost: composerd\r\nTransfer-Encoding: chunked\r\n"
    writer.write(f"{head}Authorization: Bearer {token}\r\n\r\n1\r\nx\r\n".encode())
    if end == "revoked":
        revoke(path, "builder-7")

    async def is_over() -> bool:
        return (await whoami(server, token))[0] == 401

    await server.until(is_over)
    answer = asyncio.create_task(reader.readline())
    for _ in range(20 if end == "expired" else 100):
        writer.write(b"1\r\nx\r\n")
        await asyncio.wait([answer], timeout=0.1)
        if answer.done():
            break
    if end == "expired":
        writer.write(b"0\r\n\r\n")
    assert (await answer).startswith(b"HTTP/1.1 401 " if end == "revoked" else b"HTTP/1.1 200 ")
    writer.close()


async def test_another_role_in_a_wait(serve: Serve, path: Path) -> None:
    """An identity that sees fewer channels after a wait than before gets nothing that it may no longer see."""
    boss, ops = new(path, "boss", "admin"), new(path, "ops", "admin")
    server = await serve("--tokens", str(path))
    submitted = {"type": "a", "channel": "org-acme"}
    asked = {"types": ["b"], "arch": "x86_64", "channel": "org-acme"}
    _, job = await server.request("POST", f"{COMPOSER}/jobs", submitted, headers=bearer(ops))
    waiting = [
        asyncio.create_task(server.request("GET", f"{job['href']}?wait=30s", headers=bearer(boss))),
        asyncio.create_task(server.request("POST", f"{WORKER}/jobs", asked, headers=bearer(boss))),
    ]
    await until_waiting(server, 2, headers=bearer(ops))
    roles = {"worker": waiting[1], "viewer": waiting[0]}
    before = path.read_text()
    for role, wait in roles.items():
        path.write_text(before.replace("name=boss role=admin", f"name=boss role={role}"))

        async def has(role: str = role) -> bool:
            return bool((await whoami(server, boss))[1]["role"] == role)

        await soon(server, has)
        if role == "worker":
            await server.request("POST", f"{COMPOSER}/jobs", {**submitted, "type": "b"}, headers=bearer(ops))
        else:
            await server.request("POST", f"{job['href']}/cancel", headers=bearer(ops))
        status, body = await wait
        assert (status, body["id"]) == (401, "29")


async def test_every_process(serve: Serve, newest_postgres: Throwaway, path: Path) -> None:
    """Each of several processes notices within two seconds that a token is revoked."""
    token = new(path, "ops", "admin")
    server = await serve("--tokens", str(path), "--processes", "3", storage=newest_postgres.fresh())

    async def answers() -> set[int]:
        found = set()
        for _ in range(40):  # new connections, which the kernel spreads over the processes
            async with aiohttp.ClientSession(headers=bearer(token)) as http:
                async with http.get(f"{server.url}{COMPOSER}/jobs") as answer:
                    found.add(answer.status)
                if answer.status == 401:  # the next ones would be answered later
                    break
        return found

    assert await answers() == {200}
    revoke(path, "ops")
    await asyncio.sleep(WITHIN)
    refused = await asyncio.gather(*(answers() for _ in range(40)))
    assert set().union(*refused) == {401}
