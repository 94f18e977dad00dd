"""Quotas with several servers of one storage, and with several processes of one server."""

import asyncio
from collections import Counter

from ..throwaway import Throwaway
from .conftest import Serve
from .test_quotas import Tenants, ask, post, states, tenants

__all__ = ["tenants"]


async def test_several_servers(newest_postgres: Throwaway, serve: Serve, tenants: Tenants) -> None:
    """Servers of one storage do not have more than a limit each, and then none of them allows any more."""
    limit = 40
    tenants.quotas.write_text(f"[default]\nwaiting_jobs = {limit}\n[tenants.runs]\nrunning_jobs = 5")
    acme = tenants.token("a", "submitter", "acme")
    runs, worker = tenants.token("r", "submitter", "runs"), tenants.token("w", "worker", "runs")
    url = newest_postgres.fresh()
    servers = [await serve(*tenants.options, storage=url) for _ in range(2)]
    for server in servers:  # so that both know how much there is
        await post(server, acme)
    answers = await asyncio.gather(*(post(servers[number % 2], acme) for number in range(8 * limit)))
    assert Counter(status for status, _ in answers).keys() == {201, 429}
    waiting = (await states(servers[0], acme))["ready"]
    assert limit <= waiting <= 2 * limit

    async def refused_by_both() -> bool:
        return [(await post(server, acme))[0] for server in servers] == [429, 429]

    await servers[0].until(refused_by_both, 3)
    waiting = (await states(servers[0], acme))["ready"]
    assert (await asyncio.gather(*(post(server, acme) for server in servers)))[0][0] == 429
    assert (await states(servers[0], acme))["ready"] == waiting

    await post(servers[0], runs, limit)
    requests = [asyncio.create_task(ask(servers[number % 2], worker, "20s")) for number in range(limit)]
    ended = 0
    async with asyncio.timeout(30):
        while ended < limit:
            done, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
            running = (await states(servers[0], runs))["running"]
            assert running <= 2 * 5
            for task in done:
                requests.remove(task)
                job = task.result()[1]
                finished = await servers[ended % 2].request("PATCH", job["location"], {"result": 1}, headers=worker)
                assert finished[0] == 200
                ended += 1


async def test_several_processes(newest_postgres: Throwaway, serve: Serve, tenants: Tenants) -> None:
    """Each process of a server counts by itself, as a server does."""
    tenants.quotas.write_text("[default]\nwaiting_jobs = 20\nsubmissions_per_minute = 100")
    acme = tenants.token("a", "submitter", "acme")
    server = await serve(*tenants.options, "--processes", "2", storage=newest_postgres.fresh())
    answers = await asyncio.gather(*(post(server, acme) for _ in range(100)))
    assert Counter(status for status, _ in answers).keys() == {201, 429}
    assert 20 <= (await states(server, acme))["ready"] <= 2 * 20
