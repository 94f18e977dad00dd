"""Workers that live much longer than their tokens: one that behaves as osbuild-worker does, and composerd's own."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from composerd_client import ComposerClient, JobContext, OAuth, TokenRefused, Worker

from ..live.test_clock import WallClock, clock
from .conftest import COMPOSER, Serve, Server, bearer, until_waiting
from .provider import SECRET, Provider, running

__all__ = ["clock"]

LIFETIME = 300
"""Seconds for which a token is valid."""

STEP = LIFETIME + 31
"""Seconds that pass at once: longer than a token is valid, with what the server allows for wrong clocks."""

STEPS = 11
"""Steps of an hour."""

FEW_STEPS = 4
"""Steps for a client that is tested with shorter lives elsewhere: the server holds answers to expired tokens back."""


class Hour:
    """An hour in which all tokens expire again and again: the clocks of the provider and the server are stepped."""

    def __init__(self, provider: Provider, clock: WallClock, server: Server) -> None:
        self.provider = provider
        self.server = server
        self._clock = clock
        self._passed = 0

    async def step(self) -> None:
        """Let time pass until every token has expired."""
        self._passed += STEP
        await self.provider.set_clock(self._passed)
        self._clock.step(self._passed)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request with a new token of somebody who may do everything, and return the answer."""
        headers = bearer(await self.provider.token("boss"))
        status, answer = await self.server.request(method, f"{COMPOSER}{path}", body, headers=headers)
        assert status in (200, 201), answer
        return answer

    async def submit(self, type: str, file: Path) -> str:
        """Submit a job of the tenant of the workers that is done when a file is there, and return its id."""
        job = await self.ask("POST", "/jobs", {"type": type, "channel": "org-acme", "args": str(file)})
        return str(job["id"])

    async def ended(self, job_id: str) -> dict[str, Any]:
        """Return a job once it has ended."""
        job: dict[str, Any] = await self.ask("GET", f"/jobs/{job_id}?wait=30s")
        return job


@pytest.fixture
async def hour(serve: Serve, provider: Provider, clock: WallClock) -> Hour:
    """Return an hour, and start a server that takes the tokens of the provider."""
    await provider.set_lifetime(LIFETIME)
    server = await serve(*provider.options, environment=clock.environment)
    return Hour(provider, clock, server)


@contextlib.asynccontextmanager
async def osbuild_worker(hour: Hour, client: str, secret: Path) -> AsyncIterator[asyncio.StreamReader]:
    """Run the worker, and yield what it prints."""
    arguments = (hour.server.url, hour.provider.token_url, client, str(secret), "0.4")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("osbuild_worker.py")), *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        process.kill()
        await process.communicate()


async def _until_said(lines: asyncio.StreamReader, wanted: Sequence[bytes]) -> list[bytes]:
    """Read lines until each of the wanted ones has come, and return them."""
    found: list[bytes] = []
    async with asyncio.timeout(60):
        while not all(any(line.startswith(one) for line in found) for one in wanted):
            line = await lines.readline()
            assert line, found
            found.append(line)
    return found


@pytest.mark.parametrize("grant", ["client_credentials", "refresh_token"])
async def test_an_hour_of_an_osbuild_worker(hour: Hour, tmp_path: Path, grant: str) -> None:
    """A client that asks for a token after each 401 registers once, keeps a long job, and does others meanwhile."""
    secret = tmp_path / ("offline-token" if grant == "refresh_token" else "secret")
    secret.write_text(await hour.provider.refresh_token() if grant == "refresh_token" else SECRET)
    client = "offline" if grant == "refresh_token" else "builder-7"
    image, ready = tmp_path / "image", tmp_path / "ready"
    ready.write_bytes(b"packages")
    said: list[bytes] = []
    async with osbuild_worker(hour, client, secret) as lines:
        said += await _until_said(lines, [b"registered"])
        long = await hour.submit("osbuild", image)
        said += await _until_said(lines, [b"watched 200"])
        for _ in range(STEPS):
            await hour.step()
            short = await hour.submit("depsolve", ready)
            # The token of the request that waited has expired: it is refused, and sent again with a new one.
            said += await _until_said(lines, [f"reported {short} 200".encode(), b"watched 200", b"status 200"])
            assert (await hour.ended(short))["state"] == "finished"
        image.write_bytes(b"image" * 100_000)
        said += await _until_said(lines, [f"reported {long} 200".encode()])
    ended = await hour.ended(long)
    assert (ended["state"], ended["retries"], ended["result"]) == ("finished", 0, {"success": True})
    assert [line for line in said if not line.startswith((b"token", b"status 200", b"watched 200", b"reported"))] == [
        line for line in said if line.startswith(b"registered")
    ]
    assert sum(line.startswith(b"registered") for line in said) == 1
    assert sum(line.startswith(b"token") for line in said) > STEPS


async def test_a_worker_of_composerd(hour: Hour, tmp_path: Path) -> None:
    """The worker goes on too, and so does a client that waits for its job, also while the provider is away."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    settings: dict[str, Any] = {"client_secret_file": secret, "client_authentication": "post"}
    worker = Worker(
        hour.server.url,
        arch="x86_64",
        concurrency=2,
        credentials=OAuth(hour.provider.token_url, client_id="builder-7", **settings),
    )
    image, ready = tmp_path / "image", tmp_path / "ready"
    ready.write_bytes(b"packages")

    @worker.handler("depsolve")
    @worker.handler("osbuild")
    async def build(job: JobContext) -> object:
        while not (file := Path(job.args)).exists():  # noqa: ASYNC110  # a file of the test
            await asyncio.sleep(0.01)
        await job.upload("image.raw", file)
        return {"success": True}

    running = asyncio.create_task(worker.run())
    submitter = OAuth(hour.provider.token_url, client_id="ci", **settings)
    async with ComposerClient(hour.server.url, credentials=submitter) as composer:
        long = await composer.submit("osbuild", args=str(image))
        waiting = asyncio.create_task(composer.wait(long.id, timeout=120))
        # This one, the one for the other slot, and the heartbeat: the first step must not meet them on their way.
        await until_waiting(hour.server, 3, headers=bearer(await hour.provider.token("boss")))
        for number in range(FEW_STEPS):
            await hour.step()
            if number == FEW_STEPS // 2:
                await hour.provider.close()
                await hour.step()  # minutes without the provider, in which every token expires
                await asyncio.sleep(1.0)  # requests fail meanwhile, and are repeated
                await hour.provider.open()
            short = await composer.submit("depsolve", args=str(ready))
            assert (await composer.wait(short.id, timeout=60)).state == "finished"
        image.write_bytes(b"image" * 100_000)
        ended = await waiting
        (artifact,) = await composer.artifacts(long.id)
        assert await asyncio.to_thread(image.read_bytes) == b"".join([part async for part in composer.read(artifact)])
    assert (ended.state, ended.retries, ended.result) == ("finished", 0, {"success": True})
    worker.stop()
    await running


async def test_a_refresh_token_that_the_provider_replaces(hour: Hour, tmp_path: Path) -> None:
    """Clients that share the file of a refresh token go on, although the provider takes each one only once."""
    await hour.provider.set_rotates(True)
    file = tmp_path / "refresh-token"
    file.write_text(await hour.provider.refresh_token())
    several = [OAuth(hour.provider.token_url, client_id="offline", refresh_token_file=file) for _ in range(3)]
    before = set[str]()
    for _ in range(2):
        tokens = await asyncio.gather(*(one.token() for one in several))
        assert [await _name(hour.server, token) for token in tokens] == ["ann"] * 3
        assert file.read_text() not in before
        before.add(file.read_text())
        assert all([await one.renewed(await one.token()) for one in several])
        for one in several:
            one.accepted("")


async def _name(server: Server, token: str) -> str:
    """Return the name that the server knows a token by."""
    status, known = await server.request("GET", f"{COMPOSER}/whoami", headers=bearer(token))
    assert status in (200, 403), known
    return str(known["name"])


async def test_how_a_provider_wants_the_secret(oidc_modules: Path) -> None:
    """A secret with any characters reaches a provider in the header or in the form, whichever it wants."""
    secret = "s:cr+t&/%41 ~!*'()="
    clients = [
        {"client_id": "a b:c", "client_secret": secret, "token_endpoint_auth_method": "client_secret_basic"},
        {"client_id": "post", "client_secret": secret},
    ]
    async with running(oidc_modules, clients) as provider:
        assert await OAuth(provider.token_url, client_id="a b:c", client_secret=secret).token()
        in_form = OAuth(provider.token_url, client_id="post", client_secret=secret, client_authentication="post")
        assert await in_form.token()
        with pytest.raises(TokenRefused, match="invalid_client") as raised:
            await OAuth(provider.token_url, client_id="a b:c", client_secret=secret[:-1]).token()
        assert secret[:-1] not in str(raised.value)
