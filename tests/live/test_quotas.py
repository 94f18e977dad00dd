"""A server with a quotas file: what is refused, what is held back, and what other tenants notice of it."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ..throwaway import Throwaway
from ..tokens import bearer, new
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
        return bearer(new(self.tokens, name, role, tenant))

    @property
    def options(self) -> tuple[str, ...]:
        """The options of a server."""
        return ("--tokens", str(self.tokens), "--quotas", str(self.quotas))


KINDS = ("fs", "postgresql")

StorageOf = Callable[[str], str]


@pytest.fixture
def storage_of(tmp_path: Path, request: pytest.FixtureRequest) -> StorageOf:
    """Return a function that returns the URL of an empty storage of a kind."""

    def url(kind: str) -> str:
        if kind == "postgresql":
            postgres: Throwaway = request.getfixturevalue("newest_postgres")
            return postgres.fresh()
        return f"fs:{tmp_path / 'storage'}"

    return url


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


async def states(server: Server, who: dict[str, str]) -> Counter[str]:
    """Return how many jobs of a tenant are in each state."""
    found: Counter[str] = Counter()
    cursor = ""
    while cursor is not None:
        more = f"&cursor={cursor}" if cursor else ""
        page = (await server.request("GET", f"{COMPOSER}/jobs?limit=1000{more}", headers=who))[1]
        found.update(job["state"] for job in page["items"])
        cursor = page.get("next")
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_waiting_jobs(storage_of: StorageOf, serve: Serve, tenants: Tenants, kind: str) -> None:
    """However many submit at once, a tenant has as many waiting jobs as its quota says, also after kills."""
    tenants.quotas.write_text("[default]\nwaiting_jobs = 50\n[tenants.other]\nwaiting_jobs = 'unlimited'")
    acme, worker = tenants.token("a", "submitter", "acme"), tenants.token("w", "worker", "acme")
    other = tenants.token("o", "submitter", "other")
    server = await serve(*tenants.options, storage=storage_of(kind))
    status, problem = await post(server, acme, 51)
    assert (status, problem["id"], problem["details"]["requested"]) == (403, "46", 51)
    for expected in (50, 3):
        answers = await asyncio.gather(*(post(server, acme) for _ in range(120)))
        assert Counter(status for status, _ in answers) == {201: expected, 429: 120 - expected}
        assert await states(server, acme) == {"ready": 50} | ({"running": 3} if expected == 3 else {})
        status, problem = await post(server, acme, 2)  # there is not even room for one
        assert (status, problem["details"]) == (
            429,
            {"quota": "waiting_jobs", "limit": 50, "used": 50, "requested": 1, "retry_after": 5},
        )
        assert (await post(server, other))[0] == 201
        if expected == 50:
            for _ in range(3):
                assert (await ask(server, worker))[0] == 201
            server.kill()
            await server.exited()
            await server.start()


@pytest.mark.parametrize("kind", KINDS)
async def test_kill_among_submissions(storage_of: StorageOf, serve: Serve, tenants: Tenants, kind: str) -> None:
    """A kill while many submit leaves no more than the quota allows, and the rest can be submitted after it."""
    tenants.quotas.write_text("[default]\nwaiting_jobs = 200")
    acme = tenants.token("a", "submitter", "acme")
    server = await serve(*tenants.options, storage=storage_of(kind))

    async def submit() -> None:
        with contextlib.suppress(aiohttp.ClientError):
            while (await post(server, acme))[0] == 201:
                pass

    submitting = [asyncio.create_task(submit()) for _ in range(40)]

    async def some() -> bool:
        return (await states(server, acme)).total() >= 50

    await server.until(some)
    server.kill()
    await server.exited()
    await asyncio.gather(*submitting)
    await server.start()
    assert (await states(server, acme)).total() <= 200
    await asyncio.gather(*(submit() for _ in range(40)))
    assert await states(server, acme) == {"ready": 200}


@pytest.mark.parametrize("kind", KINDS)
async def test_running_jobs(storage_of: StorageOf, serve: Serve, tenants: Tenants, kind: str) -> None:
    """No more jobs run than the quota says: the others stay ready, `why` says it, and requests wait until one ends."""
    tenants.quotas.write_text("[default]\nrunning_jobs = 3")
    acme, worker = tenants.token("a", "submitter", "acme"), tenants.token("w", "worker", "acme")
    others, monitor = tenants.token("o", "worker", "other"), tenants.token("m", "monitor", None)
    admin = tenants.token("ops", "admin", None)
    server = await serve(*tenants.options, storage=storage_of(kind))
    jobs = (await post(server, acme, 12))[1]["items"]
    await post(server, admin, channel="org-other")
    requests = [asyncio.create_task(ask(server, worker, "30s")) for _ in range(12)]
    await until_waiting(server, 9, headers=monitor)
    assert await states(server, acme) == {"running": 3, "ready": 9}
    assert (await ask(server, others))[0] == 201
    why = (await server.request("GET", f"{COMPOSER}/jobs/{jobs[-1]['id']}/why", headers=acme))[1]
    assert why["reason"].startswith("The quota of running jobs is used up: 3 of 3 run. ")
    finished = 0
    async with asyncio.timeout(20):
        while requests:
            done, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
            running = (await states(server, acme))["running"]
            assert running <= 3
            for task in done:
                requests.remove(task)
                status, job = task.result()
                assert status == 201
                done_with = await server.request("PATCH", job["location"], {"result": 1}, headers=worker)
                assert done_with[0] == 200
                finished += 1
    assert finished == 12
    await post(server, acme, 4)
    claimed = [(await ask(server, worker, "5s"))[1] for _ in range(3)]
    server.kill()
    await server.exited()
    await server.start()
    assert (await ask(server, worker))[0] == 204
    assert (await server.request("PATCH", claimed[0]["location"], {"result": 1}, headers=worker))[0] == 200
    assert (await ask(server, worker, "5s"))[0] == 201
    assert (await ask(server, worker, "0.1s"))[0] == 204


@pytest.mark.parametrize("kind", KINDS)
async def test_payload_bytes(storage_of: StorageOf, serve: Serve, tenants: Tenants, kind: str) -> None:
    """Submissions are refused whose args do not fit, a result is always accepted, and deleting jobs makes room."""
    tenants.quotas.write_text('[default]\npayload_bytes = "40KiB"')
    acme, worker = tenants.token("a", "submitter", "acme"), tenants.token("w", "worker", "acme")
    server = await serve(*tenants.options, storage=storage_of(kind))
    large = "x" * (30 * 1024 - 2)
    status, problem = await post(server, acme, args="x" * 50_000)
    assert (status, problem["id"], problem["details"]["quota"]) == (403, "46", "payload_bytes")
    job = (await post(server, acme, args=large))[1]
    status, problem = await post(server, acme, args=large)
    assert (status, problem["details"]["used"], problem["details"]["requested"]) == (429, 30 * 1024, 30 * 1024)
    assert (await post(server, acme, args="small"))[0] == 201
    claimed = (await ask(server, worker))[1]
    finished = await server.request("PATCH", claimed["location"], {"result": large}, headers=worker)
    assert finished[0] == 200

    async def refused() -> bool:
        status, problem = await post(server, acme)
        return status == 429 and problem["details"]["quota"] == "payload_bytes"

    await server.until(refused, 3)
    assert (await server.request("DELETE", f"{COMPOSER}/jobs/{job['id']}", headers=acme))[0] == 204

    async def accepted() -> bool:
        return (await post(server, acme, args=large))[0] == 201

    await server.until(accepted, 3)


@pytest.mark.parametrize("kind", KINDS)
async def test_artifact_bytes(storage_of: StorageOf, serve: Serve, tenants: Tenants, tmp_path: Path, kind: str) -> None:
    """Uploads are refused that do not fit, by the length that they announce, or as soon as too much has arrived."""
    tenants.quotas.write_text("[default]\nartifact_bytes = 100_000")
    acme, worker = tenants.token("a", "submitter", "acme"), tenants.token("w", "worker", "acme")
    options = (*tenants.options, "--artifacts", str(tmp_path / "artifacts"))
    server = await serve(*options, storage=storage_of(kind))
    await post(server, acme)
    job = (await ask(server, worker))[1]

    async def put(name: str, data: Any) -> tuple[int, Any, Any]:
        url = f"{server.url}{job['artifact_location']}{name}"
        async with aiohttp.ClientSession() as session, session.put(url, data=data, headers=worker) as response:
            text = await response.read()
            return response.status, json.loads(text) if text else None, response.headers.get("Retry-After")

    async def parts(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 1000):
            yield b"x" * 1000

    status, problem, _ = await put("huge", b"x" * 100_001)
    assert (status, problem["id"], problem["details"]["quota"]) == (403, "46", "artifact_bytes")
    assert (await put("first", b"x" * 60_000))[0] == 200
    status, problem, again = await put("second", b"x" * 60_000)
    assert (status, problem["details"]["used"], again) == (429, 60_000, None)
    assert problem["details"]["retry_after"] == 60
    status, problem, _ = await put("stream", parts(60_000))
    assert (status, problem["id"]) == (429, "45")
    answers = await asyncio.gather(*(put(f"part-{number}", parts(10_000)) for number in range(8)))
    assert Counter(status for status, *_ in answers).keys() <= {200, 429}
    number = 0
    while (await put(f"rest-{number}", b"x" * 10_000))[0] == 200:
        number += 1
    assert (await server.request("PATCH", job["location"], {"result": 1}, headers=worker))[0] == 200
    listed = (await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/artifacts", headers=acme))[1]["items"]
    assert sum(one["size"] for one in listed) == 100_000


async def test_file_that_is_wrong(tenants: Tenants, tmp_path: Path) -> None:
    """A quotas file that is wrong refuses the start with one sentence, before anything is opened."""
    tenants.quotas.write_text("[default]\nwaiting = 1")
    tenants.token("a", "submitter", "acme")
    storage = f"fs:{tmp_path / 'storage'}"
    ended = await composerd("serve", "--listen", "127.0.0.1:0", "--storage", storage, *tenants.options)
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
