"""Shares of identities, wherever their requests come from."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from ..tokens import bearer, new
from .conftest import WORKER, Serve, Server, until_waiting

MOST = 12
"""The most waits of the server."""

ASK = {"types": ["build"], "arch": "x86_64"}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Return the path of a tokens file."""
    return tmp_path / "tokens"


def known(path: Path, name: str, role: str = "worker", tenant: str | None = "acme") -> dict[str, str]:
    """Return the headers of requests of a new identity."""
    return bearer(new(path, name, role, tenant))


@asynccontextmanager
async def sender(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open connections from an address of this machine."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0), limit=0)) as session:
        yield session


class Crowd:
    """Requests for jobs that wait."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.waiting: list[asyncio.Task[int]] = []

    async def ask(self, session: aiohttp.ClientSession, headers: dict[str, str], wait: str = "60s") -> int:
        """Request a job, and return the status of the answer."""
        url = f"{self._server.url}{WORKER}/jobs?wait={wait}"
        async with session.post(url, json=ASK, headers=headers) as response:
            await response.read()
            return response.status

    def wait(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> asyncio.Task[int]:
        """Begin a request that waits."""
        task = asyncio.create_task(self.ask(session, headers))
        self.waiting.append(task)
        return task

    async def answered(self) -> list[int]:
        """Return the statuses of those that do not wait any more, once one has been answered."""
        done, _ = await asyncio.wait(self.waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() for task in done]

    def end(self) -> None:
        """End every wait."""
        for task in self.waiting:
            task.cancel()


@pytest.mark.parametrize("behind_proxy", [False, True], ids=["addresses", "behind a trusted proxy"])
async def test_greedy_identity_from_many_addresses(serve: Serve, tokens: Path, behind_proxy: bool) -> None:
    """One identity has one share, however many addresses it uses, and another one at one of them has its own."""
    greedy, other, monitor = known(tokens, "greedy"), known(tokens, "other"), known(tokens, "m", "monitor", None)
    proxies = ("--trusted-proxies", "127.0.0.0/8") if behind_proxy else ()
    server = await serve("--tokens", str(tokens), "--max-waits", str(MOST), *proxies)
    crowd = Crowd(server)

    def seen_at(number: int, headers: dict[str, str]) -> dict[str, str]:
        return headers | ({"X-Forwarded-For": f"10.0.0.{number}"} if behind_proxy else {})

    async with sender("127.0.0.2") as one, sender("127.0.0.3") as two, sender("127.0.0.4") as three:
        for number in range(MOST):
            crowd.wait((one, two)[number % 2], seen_at(number, greedy))
        await until_waiting(server, MOST, headers=monitor)
        assert await crowd.ask(three, seen_at(99, greedy), "1s") == 503  # by address, it would displace another wait
        crowd.wait(one, seen_at(0, other))
        assert await crowd.answered() == [204]
        crowd.end()


async def test_identities_behind_one_address(serve: Serve, tokens: Path) -> None:
    """Two identities behind one address, or behind one proxy that is not trusted, have a share each."""
    first, second, monitor = known(tokens, "first"), known(tokens, "second"), known(tokens, "m", "monitor", None)
    server = await serve("--tokens", str(tokens), "--max-waits", str(MOST))
    crowd = Crowd(server)
    async with sender("127.0.0.2") as proxy:
        for _ in range(MOST):
            crowd.wait(proxy, first | {"X-Forwarded-For": "10.0.0.1"})
        await until_waiting(server, MOST, headers=monitor)
        own = [crowd.wait(proxy, second | {"X-Forwarded-For": "10.0.0.1"}) for _ in range(MOST // 2)]

        async def half_each() -> bool:
            return sum(task.done() for task in crowd.waiting) == MOST // 2

        await server.until(half_each, 5)
        assert not any(task.done() for task in own)
        assert {task.result() for task in crowd.waiting if task.done()} == {204}
        crowd.end()
