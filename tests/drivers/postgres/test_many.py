"""Several PostgreSQL drivers on one storage: they share jobs, do not deadlock, and receive each other's news."""

import asyncio
import hashlib
import json
from typing import Any

import pytest

from composerd.errors import UnknownDependency
from composerd.models import Claim, News, OnDependencyFailure, Outcome
from composerd.testing.kit.instance import BUILD, PLENTY, Instance
from composerd_postgres.jobs.claims import CLASSES
from composerd_postgres.sql.statements import encode

from ...throwaway import Throwaway
from ..conftest import Open


async def test_a_submission_does_not_hide_a_job(open_instance: Open) -> None:
    """A submission that depends on a ready job, and locks it against its end, does not keep it from being claimed."""
    one, other = await open_instance(), await open_instance()
    job_id = await one.add()
    session = one.driver._session  # type: ignore[attr-defined]
    async with session.connections.one() as connection:
        await connection.fetch("BEGIN", {})
        await connection.fetch(session.statements["lock_referenced"], {"referenced": encode([{"id": job_id}])})
        claimed = await other.claim()
        await connection.fetch("ROLLBACK", {})
    assert claimed is not None
    assert claimed.job_id == job_id


async def test_a_submission_does_not_wait_for_a_job_of_another_channel(open_instance: Open) -> None:
    """A dependency of another channel is unknown at once, also while its end locks it."""
    one, other = await open_instance(), await open_instance()
    job_id = await one.add(channel="other")
    session = one.driver._session  # type: ignore[attr-defined]
    async with session.connections.one() as connection:
        await connection.fetch("BEGIN", {})
        await connection.fetch(session.statements["lock_jobs"], {"ids": f"{{{job_id}}}"})
        with pytest.raises(UnknownDependency):
            await other.submit(other.new(job_id))
        await connection.fetch("ROLLBACK", {})


async def test_many_sets_of_keys(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims for many different sets of keys are answered in order, by statements with a bounded number of sets."""
    instance = await open_instance()
    keys = [BUILD._replace(type=f"t{n}") for n in range(100)]
    ids = [await instance.add(type=key.type) for key in keys]
    connections = instance.driver._session.connections  # type: ignore[attr-defined]
    sets: list[int] = []
    real = connections.fetch

    async def observed(statement: str, parameters: Any, *more: Any) -> Any:
        if "wanted" in parameters:
            sets.append(len({row["class"] for row in json.loads(parameters["wanted"])}))
        return await real(statement, parameters, *more)

    monkeypatch.setattr(connections, "fetch", observed)
    requests = [Claim(instance.id(), (key, BUILD._replace(type="none")), 60.0) for key in [keys[0], *keys]]
    batch = await instance.driver.claim(requests, PLENTY)
    assert [one and one.job_id for one in batch.items] == [ids[0], None, *ids[1:]]
    assert max(sets) == CLASSES


async def test_many_drivers_take_each_job_once(open_instance: Open) -> None:
    """When several drivers claim at once, each job is handed out once, and all are."""
    instances = [await open_instance(connections="4") for _ in range(4)]
    keys = [BUILD, BUILD._replace(arch="x86_64")]
    ids = set()
    for instance in instances:
        for n in range(50):
            ids.add(await instance.add(arch=keys[n % 2].arch, priority=n % 3))
    got: list[Any] = []

    async def take(instance: Instance) -> None:
        for _ in range(20):
            claims = [Claim(instance.id(), tuple(keys), 60.0) for _ in range(3)]
            got.extend(one.job_id for one in (await instance.driver.claim(claims, PLENTY)).items if one is not None)

    await asyncio.gather(*[take(instance) for instance in instances for _ in range(2)])
    assert len(got) == len(ids)
    assert set(got) == ids


async def test_many_drivers_end_a_graph(open_instance: Open, newest_postgres: Throwaway) -> None:
    """Several drivers end, cancel, release and submit jobs of one graph without deadlocks, and all jobs end."""
    instances = [await open_instance(connections="4") for _ in range(4)]
    roots = [await instances[0].add() for _ in range(12)]
    leaves = [
        await instances[0].add(
            *roots[n : n + 6], on_dependency_failure=OnDependencyFailure.FAIL if n % 2 else OnDependencyFailure.RUN
        )
        for n in range(12)
    ]
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"
    before = newest_postgres.sql(deadlocks)

    async def work(instance: Instance, number: int) -> None:
        for turn in range(10):
            claims = [Claim(instance.id(), (BUILD,), 60.0) for _ in range(3)]
            taken = [one for one in (await instance.driver.claim(claims, PLENTY)).items if one is not None]
            if turn % 3 == 2:
                await instance.driver.release([one.token for one in taken])
            else:
                outcomes = [
                    Outcome(one.token, b"%d" % turn, failed=(number + turn) % 4 == 0) for one in reversed(taken)
                ]
                await instance.driver.finish(outcomes)
            if turn == 5:
                await instance.driver.cancel([leaves[number], leaves[number + 4]])
            await instance.driver.enqueue([[instance.new(roots[(number + turn) % 12], roots[turn])]])

    await asyncio.gather(*[work(instance, number) for number, instance in enumerate(instances)])
    while (await instances[0].driver.advance(1000)).news.due_in == 0.0:
        pass
    while (claimed := await instances[1].claim()) is not None:
        await instances[2].finish(claimed.token)
    jobs = await instances[3].dump()
    assert all(job.job.state.ended for job in jobs), [job.job for job in jobs if not job.job.state.ended]
    assert (await instances[0].driver.check()).problems == ()
    assert newest_postgres.sql(deadlocks) == before


async def test_a_key_is_one_job_on_all_drivers(open_instance: Open) -> None:
    """Of simultaneous submissions with one idempotency key, on several drivers, one creates the job."""
    instances = [await open_instance() for _ in range(4)]
    for turn in range(10):
        jobs = [
            instance.new(idempotency_key=f"k{turn}", fingerprint=hashlib.sha256(b"f").digest())
            for instance in instances
            for _ in range(3)
        ]
        answers = await asyncio.gather(*[instances[n // 3].submit(job) for n, job in enumerate(jobs)])
        assert len({answer.jobs[0].id for answer in answers}) == 1
        assert sum(answer.created[0] for answer in answers) == 1


async def test_news_cross(open_instance: Open) -> None:
    """Watch yields what became ready, ended or was requeued by another driver, and nothing of the driver itself."""
    one, other = await open_instance(), await open_instance()
    received: asyncio.Queue[News] = asyncio.Queue()

    async def listen() -> None:
        async for news in other.driver.watch():
            received.put_nowait(news)

    listening = asyncio.create_task(listen())
    assert (await received.get()).recheck
    await other.add(type="own")
    job_id = await one.add()
    assert await received.get() == News(ready={BUILD: 1})
    await one.release(await one.take())
    news = [await received.get(), await received.get()]
    assert News(requeued=(job_id,)) in news
    await one.end(job_id)
    assert await received.get() == News(ended=(job_id,))
    for _ in range(3):
        await one.add(priority=1)
    await one.submit(*[one.new() for _ in range(3)])
    assert [await received.get() for _ in range(4)][-1] == News(ready={BUILD: 3})
    listening.cancel()


async def test_too_much_news(open_instance: Open) -> None:
    """More news than fit into a few notifications arrive as a re-check of everything."""
    one, other = await open_instance(), await open_instance()
    watching = other.driver.watch()
    await anext(watching)
    enqueued = await one.driver.enqueue([[one.new(type=f"{n:0>128}") for n in range(1000)]])
    assert len(enqueued.news.ready) == 1000
    assert (await anext(watching)).recheck
    await watching.aclose()  # type: ignore[attr-defined]
