"""Wrong credentials: they are answered later and later, without slowing down anybody else."""

import asyncio
import itertools
import signal
import time
from pathlib import Path

import aiohttp

from ..tokens import bearer, new, revoke
from .conftest import COMPOSER, Serve, Server
from .test_tokens import path, whoami

__all__ = ["path"]


class Sender:
    """A client with an address of its own, and a connection for each request."""

    def __init__(self, server: Server, address: str) -> None:
        connector = aiohttp.TCPConnector(local_addr=(address, 0), limit=0, force_close=True)
        self._http = aiohttp.ClientSession(connector=connector)
        self._url = f"{server.url}{COMPOSER}/whoami"

    async def ask(self, token: str) -> tuple[int, float]:
        """Send a request with a token, and return the status of the answer and the seconds until it came."""
        began = time.monotonic()
        async with self._http.get(self._url, headers=bearer(token)) as answer:
            await answer.read()
            return answer.status, time.monotonic() - began

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


async def test_wrong_attempts(serve: Serve, path: Path) -> None:
    """Wrong attempts are answered later and later, and only they are: also right ones of the same address are not."""
    known, unknown = new(path, "ops", "admin"), new(path, "builder-7", "worker")
    wrong = new(path.with_name("other"), "ops", "admin")
    server = await serve("--tokens", str(path))
    bad, good = Sender(server, "127.0.0.31"), Sender(server, "127.0.0.32")
    assert (await bad.ask(known))[0] == 200
    answers = [await bad.ask(wrong) for _ in range(6)]
    assert {status for status, _ in answers} == {401}
    assert max(seconds for _, seconds in answers[:3]) < 0.5
    assert [seconds >= least for (_, seconds), least in zip(answers[3:], (0.25, 0.5, 1), strict=True)] == [True] * 3
    flood = [asyncio.create_task(bad.ask(wrong)) for _ in range(200)]
    for first in itertools.islice(asyncio.as_completed(flood), 100):  # beyond as many as are held back
        await first
    assert not all(one.done() for one in flood)
    for sender, token in ((bad, known), (bad, unknown), (good, known)):
        status, seconds = await sender.ask(token)
        assert (status, seconds < 0.25) == (200, True)
    assert [await good.ask(wrong) for _ in range(3)][-1][1] < 0.5
    assert {status for status, _ in await asyncio.gather(*flood)} == {401}
    for sender in (bad, good):
        await sender.close()
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    lines = [line for line in server.log.decode().splitlines() if "refused the credentials" in line]
    reason = "nobody has this token"
    said = [line.partition("] ")[2] for line in lines]
    assert said.count(f"refused the credentials of a request from 127.0.0.31: {reason}") == 20
    assert said.count(f"refused the credentials of a request from 127.0.0.32: {reason}") == 3
    assert said[23:] == [
        f"refused the credentials of 186 more requests from 127.0.0.31 within a minute; the latest: {reason}"
    ]


async def test_wrong_attempts_behind_a_trusted_proxy(serve: Serve, path: Path) -> None:
    """Wrong attempts that are held back take no places of right ones of the same client behind a trusted proxy."""
    known, revoked = new(path, "ops", "admin"), new(path, "former", "admin")
    revoke(path, "former")  # an unknown token takes a place while the server looks whether the file has it now
    server = await serve("--tokens", str(path), "--trusted-proxies", "127.0.0.0/8", "--max-connections", "60")
    proxy = Sender(server, "127.0.0.34")
    flood = [asyncio.create_task(proxy.ask(revoked)) for _ in range(40)]
    for first in itertools.islice(asyncio.as_completed(flood), 4):
        await first
    status, seconds = await proxy.ask(known)
    assert (status, seconds < 0.25) == (200, True)
    assert not all(one.done() for one in flood)
    await asyncio.gather(*flood)
    await proxy.close()


async def test_a_fleet_whose_tokens_expire(serve: Serve, path: Path) -> None:
    """Workers behind one address that send expired tokens are not slowed down: nobody is guessing."""
    expired = new(path, "builder-7", "worker", expires=int(time.time()) - 1)
    server = await serve("--tokens", str(path))
    fleet = Sender(server, "127.0.0.33")
    answers = [await fleet.ask(expired) for _ in range(30)]
    assert {status for status, _ in answers} == {401}
    assert max(seconds for _, seconds in answers) < 0.25
    await fleet.close()
    assert server.log.count(b"the token of builder-7 has expired") == 20  # bounded all the same


async def test_wrong_attempts_elsewhere(serve: Serve, path: Path) -> None:
    """`/readyz` and a head that is too long are no way around the slowing down: they are counted and logged as well."""
    new(path, "ops", "admin")
    wrong = new(path.with_name("other"), "ops", "admin")
    server = await serve("--tokens", str(path))
    assert (await whoami(server, "a" * 20_000))[0] == 401
    for _ in range(3):
        assert await server.request("GET", "/readyz", headers=bearer(wrong)) == (200, b"ready\n")
    began = time.monotonic()
    assert (await whoami(server, "a" * 200))[0] == 401
    assert time.monotonic() - began > 0.25
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    assert b"refused the credentials of a request from 127.0.0.1: the token is longer than 16384 bytes" in server.log
    assert server.log.count(b"refused the credentials of a request from 127.0.0.1: ") == 5


async def test_checks_with_a_wrong_token(serve: Serve, path: Path) -> None:
    """A health check is answered soon with a wrong token, however often it asks; an empty token is none at all.

    HAProxy gives up a check after 2 s, and would otherwise leave out every server once its token has expired.
    """
    new(path, "ops", "admin")
    wrong = new(path.with_name("other"), "ops", "admin")
    server = await serve("--tokens", str(path))
    for _ in range(5):
        assert (await server.request("GET", "/readyz", headers={"Authorization": "Bearer "}))[0] == 200
    assert b"refused the credentials" not in server.log
    began = time.monotonic()
    answers = await asyncio.gather(*(server.request("GET", "/readyz", headers=bearer(wrong)) for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert 0.9 < time.monotonic() - began < 1.9
    status, body = await server.request("GET", f"{COMPOSER}/jobs", headers={"Authorization": "Bearer "})
    assert (status, body["details"]) == (401, {"problem": "the token in the Authorization header is empty"})
