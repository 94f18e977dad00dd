"""A server with a quotas file: what is refused, what is held back, and what other tenants notice of it."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from composerd.identity.tokens.changes import changing
from composerd.identity.values import Role

from .conftest import COMPOSER, WORKER, Serve, Server, until_waiting
from .test_cli import composerd

JSON = {"Content-Type": "application/json"}


class Tenants:
    """Tokens of identities, and a quotas file."""

    def __init__(self, directory: Path) -> None:
        self.tokens = directory / "tokens"
        self.quotas = directory / "quotas.toml"

    def token(self, name: str, role: str, tenant: str | None) -> dict[str, str]:
        """Return the headers of requests of a new identity."""
        with changing(self.tokens, create=True) as file:
            return {"Authorization": f"Bearer {file.create(name, Role(role), tenant, None).text}"}

    @property
    def options(self) -> tuple[str, ...]:
        """The options of a server."""
        return ("--tokens", str(self.tokens), "--quotas", str(self.quotas))


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    """Return tokens and quotas for a test."""
    return Tenants(tmp_path)


async def post(server: Server, who: dict[str, str], count: int = 1, **fields: Any) -> tuple[int, Any]:
    """Submit a job, or a batch."""
    job = {"type": "build", **fields}
    if count == 1:
        return await server.request("POST", f"{COMPOSER}/jobs", job, headers=who)
    return await server.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": [job] * count}, headers=who)


async def ask(server: Server, who: dict[str, str], wait: str = "0", **fields: Any) -> tuple[int, Any]:
    """Request a job."""
    body = {"types": ["build"], "arch": "x86_64", **fields}
    return await server.request("POST", f"{WORKER}/jobs?wait={wait}", body, headers=who)


@pytest.mark.row("Settings", "--quotas")
async def test_submissions_a_minute(serve: Serve, tenants: Tenants) -> None:
    """Beyond the quota a submission gets error 45 with `Retry-After`, before its body is read; others go on."""
    tenants.quotas.write_text("[default]\nsubmissions_per_minute = 2\n[tenants.none]\nsubmissions_per_minute = 0")
    acme, other = tenants.token("a", "submitter", "acme"), tenants.token("b", "submitter", "other")
    none, admin = tenants.token("c", "submitter", "none"), tenants.token("ops", "admin", None)
    server = await serve(*tenants.options)
    for _ in range(2):
        assert (await post(server, acme))[0] == 201
    status, problem = await post(server, acme)
    assert (status, problem["id"]) == (429, "45")
    details = problem["details"]
    assert details.pop("retry_after") in range(59, 62)
    assert details == {"quota": "submissions_per_minute", "limit": 2, "used": 2, "requested": 1}
    async with aiohttp.ClientSession() as session:  # a body that never comes, of a type that would be refused
        headers = {**acme, "Content-Length": "30000000", "Content-Type": "text/csv"}
        reader = aiohttp.ClientTimeout(total=5)
        async with session.post(f"{server.url}{COMPOSER}/jobs", headers=headers, timeout=reader) as response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) in range(59, 62)
    status, problem = await post(server, none)
    assert (status, problem["id"]) == (403, "46")
    assert problem["details"]["quota"] == "submissions_per_minute"
    assert (await post(server, other))[0] == 201
    for _ in range(4):
        assert (await post(server, admin, channel="org-acme"))[0] == 201
    metrics = (await server.request("GET", "/metrics", headers=admin))[1].decode()
    assert 'composerd_quota_refusals_total{quota="submissions_per_minute"} 3.0' in metrics
    assert b"the quota submissions_per_minute of tenant acme is used up (2 of 2)" in server.log


async def test_open_waits(serve: Serve, tenants: Tenants) -> None:
    """Beyond the quota, requests that would wait are refused, heartbeats are answered at once, and others wait."""
    tenants.quotas.write_text("[tenants.acme]\nopen_waits = 2")
    worker, submitter = tenants.token("w", "worker", "acme"), tenants.token("s", "submitter", "acme")
    other, monitor = tenants.token("o", "worker", "other"), tenants.token("m", "monitor", None)
    server = await serve(*tenants.options)
    job = (await post(server, submitter))[1]
    claimed = (await ask(server, worker))[1]
    waits = [
        asyncio.create_task(ask(server, worker, "20s")),
        asyncio.create_task(server.request("GET", f"{COMPOSER}/jobs/{job['id']}?wait=20s", headers=submitter)),
    ]
    await until_waiting(server, 2, headers=monitor)
    async with asyncio.timeout(5):
        status, problem = await ask(server, worker, "20s")
        assert (status, problem["id"], problem["details"]["quota"]) == (429, "45", "open_waits")
        status, problem = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}?wait=20s", headers=submitter)
        assert (status, problem["details"]["limit"]) == (429, 2)
        assert (await server.request("GET", f"{COMPOSER}/jobs/{job['id']}", headers=submitter))[0] == 200
        heartbeat = await server.request("GET", f"{claimed['location']}?wait=20s", headers=worker)
        assert heartbeat == (200, {**heartbeat[1], "canceled": False})
    waiting = asyncio.create_task(ask(server, other, "20s"))
    await until_waiting(server, 3, headers=monitor)
    finished = await server.request("PATCH", claimed["location"], {"result": 1}, headers=worker)
    assert finished[0] == 200
    assert (await waits[1])[0] == 200
    async with asyncio.timeout(5):
        assert (await ask(server, worker, "0.1s"))[0] == 204
    for wait in (waits[0], waiting):
        wait.cancel()


async def test_change_of_the_file(serve: Serve, tenants: Tenants) -> None:
    """A change applies without a restart; a file that is wrong changes nothing, and `/readyz` says why."""
    tenants.quotas.write_text("[default]\nsubmissions_per_minute = 1")
    acme, monitor = tenants.token("a", "submitter", "acme"), tenants.token("m", "monitor", None)
    server = await serve(*tenants.options)
    assert (await post(server, acme))[0] == 201
    assert (await post(server, acme))[0] == 429
    tenants.quotas.write_text("[default]\nsubmissions_per_minute = 1000\njobs = 1")

    async def says_why() -> bool:
        ready = (await server.request("GET", "/readyz", headers=monitor))[1].decode()
        return "quotas: the file cannot be used" in ready and "[default] has 'jobs'" in ready

    await server.until(says_why, 3)
    assert (await post(server, acme))[0] == 429
    tenants.quotas.write_text("[default]\nsubmissions_per_minute = 1000")

    async def accepted() -> bool:
        return (await post(server, acme))[0] == 201

    await server.until(accepted, 3)
    assert (await server.request("GET", "/readyz", headers=monitor))[1] == b"ready\n"


async def test_file_that_is_wrong(tenants: Tenants, tmp_path: Path) -> None:
    """A quotas file that is wrong refuses the start with one sentence, before anything is opened."""
    tenants.quotas.write_text("[default]\nwaiting = 1")
    tenants.token("a", "submitter", "acme")
    ended = await composerd("serve", "--storage", f"fs:{tmp_path / 'storage'}", *tenants.options)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"{tenants.quotas} cannot be used: [default] has 'waiting', but the quotas are" in ended.err
    assert not (tmp_path / "storage").exists()


async def test_quotas_without_identities(tmp_path: Path) -> None:
    """A server does not start with quotas and no identities: there would be no tenants."""
    path = tmp_path / "quotas.toml"
    path.write_text("")
    ended = await composerd("serve", "--storage", "memory:", "--quotas", str(path))
    assert ended.code == 2
    assert "quotas is set, but nobody has an identity" in ended.err
