"""Large graphs: their ends and their deletion take few and short transactions, however these are cut."""

import random
from typing import Any

import pytest

from composerd.models import JobState, OnDependencyFailure
from composerd.testing.kit.instance import Instance
from composerd_fs import MemoryDriver
from composerd_postgres import PostgresDriver
from composerd_postgres.db.connection import Connection, Rows, Transaction
from composerd_postgres.jobs import deletion, propagate

from ...throwaway import Throwaway
from ..conftest import Open

CHAIN = 600


async def test_a_chain_takes_few_transactions(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a job reaches the last of a long chain after a few transactions, and not one for each level."""
    instance = await open_instance()
    jobs = [instance.new()]
    for _ in range(CHAIN):
        jobs.append(instance.new(jobs[-1].id))
    await instance.submit(*jobs)
    count = 0
    begin = Transaction.begin

    async def counted(*args: object, **how: object) -> object:
        nonlocal count
        count += 1
        return await begin(*args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Transaction, "begin", counted)
    await instance.cancel(jobs[0].id)
    assert await instance.state(jobs[-1].id) is JobState.CANCELED
    assert count <= 2 + CHAIN / propagate.EDGES_OF_A_TRANSACTION * 2


@pytest.mark.parametrize("seed", range(4))
async def test_cut_in_small_pieces(open_instance: Open, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A random graph ends as it does in memory, with the same results, if each transaction follows two edges."""
    monkeypatch.setattr(propagate, "EDGES_OF_A_TRANSACTION", 2)
    monkeypatch.setattr(propagate, "DEPENDENCIES_OF_A_TRANSACTION", 3)
    memory = Instance(MemoryDriver.from_url("memory:"), lambda: MemoryDriver.from_url("memory:"))
    await memory.driver.start()
    ends = []
    for instance in (memory, await open_instance()):
        chance = random.Random(seed)
        jobs = [instance.new(type=f"{n}") for n in range(5)]
        for _ in range(40):
            chosen = chance.sample(jobs, chance.randint(1, 4))
            failing = chance.choice([*OnDependencyFailure])
            jobs.append(instance.new(*[job.id for job in chosen], type="later", on_dependency_failure=failing))
        await instance.submit(*jobs)
        for job in jobs[:4]:
            if chance.random() < 0.3:
                await instance.cancel(job.id)
            else:
                token = await instance.take(job.id, (job.key,))
                await instance.finish(token, failed=chance.random() < 0.5)
        ends.append([(await instance.state(job.id), await instance.result(job.id)) for job in jobs])
        assert instance is memory or (await instance.driver.check()).problems == ()
    assert ends[0] == ends[1]
    await memory.driver.close()


@pytest.mark.parametrize("how", ["purge", "delete"])
async def test_many_dependents_are_deleted(open_instance: Open, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A job with more dependents than one transaction deletes edges is deleted, and no edge is left."""
    monkeypatch.setattr(deletion, "EDGES_OF_A_TRANSACTION", 7)
    instance = await open_instance()
    hub = await instance.add(retention=10.0)
    dependents = [instance.new(hub, retention=20.0) for _ in range(30)]
    await instance.submit(*dependents)
    await instance.cancel(hub)
    if how == "delete":
        deleted = await instance.delete(hub)
        assert not isinstance(deleted, Exception)
        assert deleted is not None
        assert deleted.dependents == tuple(job.id for job in dependents)
    else:
        await instance.shift(700.0)
        purged: list[object] = []
        while found := (await instance.driver.purge(1000)).items:
            purged += found
        assert sorted(map(str, purged)) == sorted(map(str, [hub, *[job.id for job in dependents]]))
    session = instance.driver._session  # type: ignore[attr-defined]
    edges = f'SELECT FROM "{session.options.schema}".edges WHERE dependency = %(id)s::uuid'
    rows = await session.connections.fetch(edges, {"id": str(hub)})
    assert rows == []


async def test_a_needed_job_keeps_its_dependents(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with many dependents of which the last has not ended is neither deleted nor loses dependents."""
    monkeypatch.setattr(deletion, "EDGES_OF_A_TRANSACTION", 7)
    instance = await open_instance()
    hub = await instance.add(retention=10.0)
    dependents = [instance.new(hub) for _ in range(30)]
    await instance.submit(*dependents)
    await instance.end(hub)
    for job in dependents[:-1]:
        await instance.cancel(job.id)
    await instance.shift(700.0)
    assert (await instance.driver.purge(1000)).items == []
    assert isinstance(await instance.delete(hub), Exception)
    assert (await instance.get(hub)).dependents == tuple(job.id for job in dependents)


async def test_jobs_are_not_counted(
    open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of jobs are kept: `info` reads no job, and `check` notices numbers that are wrong."""
    instance = await open_instance()
    driver = instance.driver
    assert isinstance(driver, PostgresDriver)
    schema = driver.options.schema
    ids = [await instance.add() for _ in range(5)]
    await instance.end(ids[0])
    await instance.cancel(ids[1])
    await instance.take(ids[2])
    await instance.delete(ids[1])
    executed: list[str] = []
    fetch = Connection.fetch

    async def noted(self: Connection, statement: str, *rest: Any) -> Rows:
        executed.append(statement)
        return await fetch(self, statement, *rest)

    monkeypatch.setattr(Connection, "fetch", noted)
    counted = (await driver.info()).jobs
    assert [text for text in executed if '".jobs' in text] == []
    assert any('".counts' in text for text in executed)
    assert counted == {"waiting": 0, "ready": 2, "running": 1, "finished": 1, "failed": 0, "canceled": 0}
    assert (await driver.check()).problems == ()
    newest_postgres.sql(f"UPDATE {schema}.counts SET ready = ready + 1")
    (problem,) = (await driver.check()).problems
    assert "recount" in problem
    newest_postgres.sql(problem.partition("execute ")[2])
    assert (await driver.check()).problems == ()
