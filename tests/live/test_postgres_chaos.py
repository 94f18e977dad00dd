"""Servers are killed and their database crashes while thirty workers run jobs: no job is lost or ends twice."""

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import aiohttp

from ..throwaway import Throwaway
from .conftest import COMPOSER, WORKER, Serve, Server

WORKERS = 30
JOBS = 300


class _Crowd:
    """Workers and submitters that use any of the servers, and repeat what failed."""

    def __init__(self, servers: list[Server], http: aiohttp.ClientSession, seed: int) -> None:
        self.servers = servers
        self.chance = random.Random(seed)
        self.accepted: Counter[str] = Counter()
        """The number of acknowledged results of each job."""
        self.progress = asyncio.Event()
        self.over = False
        self._http = http

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request to one server after another until one answers, and knows the outcome."""
        while True:
            server = self.chance.choice(self.servers)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._http.request(method, server.url + path, json=body) as response:
                    assert response.status < 500 or response.status in (503, 504), await response.text()
                    if response.status < 500:
                        return response.status, await response.json(
                            content_type=None
                        ) if response.status != 204 else None
            await asyncio.sleep(0.05)

    async def submit(self, number: int) -> str:
        """Submit a job with an idempotency key, so that a repetition is the same job."""
        body = {"type": "build", "args": number, "idempotency_key": f"k{number}", "max_retries": 100}
        status, job = await self.request("POST", f"{COMPOSER}/jobs", body)
        assert status in (200, 201), job
        return str(job["id"])

    async def work(self) -> None:
        """Run jobs until the test is over."""
        while not self.over:
            body = {"types": ["build"], "arch": "x86_64", "confirm": True}
            status, job = await self.request("POST", f"{WORKER}/jobs?wait=1s", body)
            if status != 201:
                continue
            status, said = await self.request("GET", job["location"])  # confirms
            if status != 200 or said["canceled"]:
                continue
            await asyncio.sleep(self.chance.random() * 0.05)  # the work
            status, said = await self.request(
                "PATCH", job["location"], {"result": {"n": job["args"], "by": job["location"]}}
            )
            assert status in (200, 404, 409, 410), said
            if status == 200:
                self.accepted[job["id"]] += 1
                self.progress.set()


async def test_nothing_is_lost(serve: Serve, own_postgres: Throwaway) -> None:
    """Every acknowledged job ends exactly once, with a result that was acknowledged, whatever is killed."""
    url = own_postgres.fresh()
    options = ("--heartbeat-timeout", "5s", "--handover-timeout", "2s", "--sweep-interval", "1s")
    servers = [await serve(*options, storage=url) for _ in range(3)]
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        crowd = _Crowd(servers, http, seed=5)
        workers = [asyncio.create_task(crowd.work()) for _ in range(WORKERS)]
        ids: list[str] = []

        async def submit() -> None:
            for number in range(JOBS):
                ids.append(await crowd.submit(number))  # noqa: PERF401  # others look at it meanwhile

        submitting = asyncio.create_task(submit())

        async def ended(count: int) -> None:
            async with asyncio.timeout(60):
                while len(crowd.accepted) < count:
                    crowd.progress.clear()
                    await crowd.progress.wait()

        for count in (JOBS // 6, JOBS // 3):
            await ended(count)
            victim = crowd.chance.choice(servers)
            victim.kill()
            await victim.exited()
            await victim.start()
        await ended(JOBS // 2)
        own_postgres.stop()  # as after a crash
        own_postgres.start()
        for count in range(2 * JOBS // 3, JOBS, JOBS // 20):
            await ended(count)
            own_postgres.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'composerd'"
            )
        await submitting
        for job_id in ids:
            status, job = await crowd.request("GET", f"{COMPOSER}/jobs/{job_id}?wait=15s")
            assert (status, job.get("state")) == (200, "finished"), job
            assert job["result"]["n"] == ids.index(job_id)
        crowd.over = True
        await asyncio.gather(*workers)
    assert len(set(ids)) == JOBS
    assert crowd.accepted.keys() <= set(ids)
    assert max(crowd.accepted.values()) == 1
    states = own_postgres.sql(f"SELECT state, count(*) FROM {_schema(url)}.jobs GROUP BY state")
    assert states == [("finished", JOBS)]
    for table in ("leases", "progress"):
        assert own_postgres.sql(f"SELECT count(*) FROM {_schema(url)}.{table}") == [(0,)]
    assert not any(b"Traceback" in server.log for server in servers)


def _schema(url: str) -> str:
    return url.partition("schema=")[2]
