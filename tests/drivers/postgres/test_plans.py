"""The plans of all statements with 100,000 ready and 100,000 ended jobs use indexes and read only what is needed.

PostgreSQL's `auto_explain` reports the plan of every statement, those inside functions included, with the number of
rows that each step really read.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from composerd.models import Claim, JobFilter, JobState, Key, Outcome, PayloadKind, PayloadRef, Touch, Worker
from composerd.testing.kit.instance import BUILD, PLENTY, Instance
from composerd_postgres import PostgresDriver
from composerd_postgres.sql.statements import array

from ...throwaway import Throwaway
from ..conftest import created

ROWS = 100_000

BIG = frozenset({"jobs", "args", "results", "edges", "attempts", "artifacts"})

TENANT = "org-acme"

OF_TENANT = 1000
"""Number of jobs in the tenant's channel."""

FEW = 500
"""Number of rows of a big table that a statement may read for a call that concerns a few dozen."""

FILL = f"""
SET search_path TO composerd;
INSERT INTO jobs (id, seq, place, channel, type, arch, state, priority, queued_at, started_at, finished_at, expires_at,
    purge_at, attempt, dependencies, max_retries, retry_on_failure, retry_backoff, fail_with_dependency, retention,
    idempotency_key, fingerprint, args_size, result_size)
SELECT ('00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0'))::uuid, n, n, '', 'build',
    CASE n % 2 WHEN 0 THEN 'x86_64' ELSE '' END, CASE WHEN n <= {ROWS} THEN 'finished' ELSE 'ready' END, n % 3,
    now(), now(), CASE WHEN n <= {ROWS} THEN now() END, CASE WHEN n <= {ROWS} THEN now() + interval '14 d' END,
    CASE WHEN n <= {ROWS} THEN now() + interval '14 d' END, CASE WHEN n <= {ROWS} THEN 1 ELSE 0 END,
    CASE WHEN n > {ROWS} THEN ARRAY[('00000000-0000-0000-0000-' || lpad(to_hex(n - {ROWS}), 12, '0'))::uuid]
        ELSE '{{}}' END,
    2, 0, 10, false, 1209600, 'key' || n, '', 20, CASE WHEN n <= {ROWS} THEN 20 END
FROM generate_series(1, {2 * ROWS}) n;
INSERT INTO args SELECT id, decode(repeat('41', 20), 'hex') FROM jobs;
INSERT INTO results SELECT id, decode(repeat('42', 20), 'hex') FROM jobs WHERE state = 'finished';
INSERT INTO attempts
SELECT ('11111111-0000-0000-0000-' || lpad(to_hex(seq), 12, '0'))::uuid, id, 1, 'finished', false, 60, '', NULL
FROM jobs WHERE state = 'finished';
INSERT INTO artifacts SELECT id, 'image', 1, 'ab', 'p' FROM jobs WHERE state = 'finished';
INSERT INTO edges SELECT dependencies[1], id, seq, false FROM jobs WHERE state = 'ready';
SELECT setval('places', {2 * ROWS});
"""

SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "client_min_messages": "log",
}


Filled = dict[Throwaway, str]


@pytest.fixture(scope="module")
def filled() -> Iterator[Filled]:
    """Yield a dictionary for a full database of each server, which each test copies."""
    databases: Filled = {}
    yield databases
    for postgres, database in databases.items():
        postgres.drop_database(database)


async def _fill(postgres: Throwaway) -> str:
    database = postgres.fresh_database()
    await created(postgres.url(database))
    await asyncio.to_thread(postgres.sql, FILL, database)
    await asyncio.to_thread(postgres.sql, "VACUUM ANALYZE", database)
    return database


@pytest.fixture
async def explained(postgres: Throwaway, filled: Filled) -> Any:
    """Yield an instance on a full database, and a function that makes a call and returns its answer and its plans."""
    if postgres not in filled:
        filled[postgres] = await _fill(postgres)
    async with _explaining(postgres, postgres.fresh_database(template=filled[postgres])) as both:
        yield both


@contextlib.asynccontextmanager
async def _explaining(postgres: Throwaway, database: str) -> AsyncIterator[Any]:
    driver = PostgresDriver.from_url(postgres.url(database))
    for name, value in SETTINGS.items():
        postgres.sql(f"ALTER DATABASE {database} SET {name} = '{value}'")
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    instance._ids = 2**60

    async def plans(call: Callable[[], Awaitable[Any]]) -> tuple[Any, list[dict[str, Any]]]:
        notices: list[str] = []
        (connection,) = driver._session.connections._idle
        connection.raw.raw.notices = notices
        answer = await call()
        await connection.fetch("SHOW server_version", {})  # psycopg2 sees the notices of statements with COPY only now
        assert len(driver._session.connections._idle) == 1
        found = [json.loads(one.partition("plan:\n")[2]) for one in notices if "plan:\n" in one]
        assert found, "PostgreSQL reported no plan"
        return answer, found

    try:
        yield instance, plans
    finally:
        await driver.close()
        postgres.drop_database(database)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _expensive(plans: list[dict[str, Any]]) -> list[str]:
    """Return the steps of plans that read more of a big table than they should."""
    found = []
    for plan in plans:
        for node in _nodes(plan["Plan"]):
            if node.get("Relation Name") in BIG:
                seen = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                if seen > FEW or node["Node Type"] == "Seq Scan":
                    found.append(f"{node['Node Type']} on {node['Relation Name']}: {seen} rows in {plan['Query Text']}")
    return found


async def test_every_call(explained: Any) -> None:
    """No call of the contract scans a big table, or reads more of it than it needs."""
    instance, plans = explained
    driver = instance.driver
    expensive: list[str] = []

    async def do(call: Awaitable[Any]) -> Any:
        answer, found = await plans(lambda: call)
        expensive.extend(_expensive(found))
        return answer

    both = (BUILD, BUILD._replace(arch="x86_64"))
    ended, ready = UUID(int=7), UUID(int=ROWS + 7)
    root = instance.new(ended, ready, idempotency_key="new", fingerprint=b"f", priority=9)
    leaf = instance.new(root.id, retry_on_failure=1)
    await do(driver.enqueue([[root, leaf], [instance.new(idempotency_key="key5")], [instance.new()]]))
    claims = [Claim(instance.id(), both, 60.0, 5.0, instance.id()) for _ in range(20)]
    for _ in range(2):  # the second time with a claim hint
        taken = (await do(driver.claim(claims, PLENTY))).items
        assert len({one.job_id for one in taken}) == 20
        again = (await do(driver.claim(claims, PLENTY))).items
        assert again == taken
        tokens = [claim.token for claim in claims]
        await do(driver.touch([Touch(token, b"{}") for token in tokens]))
        await do(driver.release(tokens[:5]))
        await do(_finish(instance, tokens[5:]))
        claims = [Claim(instance.id(), both[:1], 60.0) for _ in range(20)]
    assert (await do(driver.claim([Claim(instance.id(), (Key("", "none", None),), 60.0)], PLENTY))).items == [None]
    token = (await do(driver.claim([Claim(instance.id(), both, 60.0)], PLENTY))).items[0].token
    await do(instance.attach(token, "log"))
    await do(driver.artifacts([ended]))
    await do(driver.payload([PayloadRef(ended, kind) for kind in PayloadKind]))
    await do(driver.get([ended, ready]))
    await do(driver.list(JobFilter(), None, 50))
    await do(driver.seen([Worker(instance.id(), "x86_64", ("build",))]))
    await do(driver.sign_off([Worker(instance.id(), "")]))
    await do(driver.workers(60.0))
    await do(driver.usage(["", "another"]))
    await do(driver.ahead(UUID(int=ROWS + 40), 100))
    assert (await do(driver.cancel([root.id]))).news.ended == (root.id, leaf.id)
    await do(driver.delete([leaf.id, root.id]))
    await instance.driver.shift_clock(100.0)
    assert len((await do(driver.advance(100))).items) == 1
    await do(driver.purge(100))
    assert expensive == []


async def test_a_plan_made_when_there_was_nothing(postgres: Throwaway) -> None:
    """A session that planned its claims while the tables were empty still uses the indexes when there are many jobs."""
    database = postgres.fresh_database()
    await created(postgres.url(database))
    for table in sorted(BIG):  # otherwise autovacuum would have the plans replaced within seconds
        postgres.sql(f"ALTER TABLE composerd.{table} SET (autovacuum_enabled = off)", database)
    postgres.sql("VACUUM ANALYZE", database)
    async with _explaining(postgres, database) as (instance, plans):
        claims = [Claim(instance.id(), (BUILD,), 60.0) for _ in range(20)]
        assert (await instance.driver.claim(claims, PLENTY)).items == [None] * 20
        await asyncio.to_thread(postgres.sql, FILL, database)
        for _ in range(2):  # the second time as repetitions
            batch, found = await plans(lambda: instance.driver.claim(claims, PLENTY))
            assert None not in batch.items
            assert _expensive(found) == []


async def test_retention_in_small_batches(explained: Any) -> None:
    """With 100,000 jobs whose retention is over, a purge reads only about as many as it may delete."""
    instance, plans = explained
    await instance.driver.shift_clock(20 * 86400.0)
    batch, found = await plans(lambda: instance.driver.purge(100))
    assert batch.items == []  # ready jobs depend on them, so they are looked at again later
    assert _expensive(found) == []
    await instance.driver.cancel([UUID(int=ROWS + n) for n in range(101, 201)])
    batch, found = await plans(lambda: instance.driver.purge(100))
    assert len(batch.items) <= 100
    assert _expensive(found) == []


async def test_retention_by_a_wrong_clock(explained: Any) -> None:
    """With 100,000 jobs whose retention is over by a clock that jumped, a purge reads no more than it may delete."""
    instance, plans = explained
    await instance.driver.jump_clock(20 * 86400.0)
    for _ in range(2):
        batch, found = await plans(lambda: instance.driver.purge(100))
        assert batch.items == []
        assert _expensive(found) == []
        await instance.driver.shift_clock(100.0)


async def test_leases_are_not_read_all_the_time(explained: Any) -> None:
    """Of 10,000 leases that it read a moment ago, `advance` reads one: it only needs to know that there are some."""
    instance, plans = explained
    session = instance.driver._session
    await session.connections.fetch(
        "INSERT INTO composerd.leases (token_hash, job_id, lease, confirmed, began, deadline) "
        "SELECT gen_random_uuid(), gen_random_uuid(), 60, true, now(), now() + interval '1 minute' "
        "FROM generate_series(1, 10000)",
        {},
    )
    for rows in (10_000, 1):
        batch, found = await plans(lambda: instance.driver.advance(100))
        assert batch.news.due_in == 1.0
        nodes = [node for plan in found for node in _nodes(plan["Plan"]) if node.get("Relation Name") == "leases"]
        assert max(node["Actual Rows"] * node["Actual Loops"] for node in nodes) == rows


@pytest.mark.parametrize(
    "filter",
    [JobFilter(state=JobState.CANCELED), JobFilter(states=(JobState.CANCELED, JobState.RUNNING, JobState.FAILED))],
    ids=["one state", "several states"],
)
async def test_a_filtered_page_is_bounded(explained: Any, filter: JobFilter) -> None:
    """A listing with a filter that no job passes reads a bounded number of jobs, and offers to go on from there."""
    instance, plans = explained
    page, found = await plans(lambda: instance.driver.list(filter, None, 50))
    assert page.jobs == ()
    assert page.next is not None
    nodes = [node for plan in found for node in _nodes(plan["Plan"]) if node.get("Relation Name") == "jobs"]
    assert [node["Node Type"] for node in nodes] == ["Index Scan"]
    assert sum(node["Actual Rows"] for node in nodes) == 10_000


async def test_a_page_of_a_channel(explained: Any) -> None:
    """A page of a channel reads that channel's jobs only, beside 200,000 others, whatever PostgreSQL knows of them."""
    instance, plans = explained
    fetch = instance.driver._session.connections.fetch
    every = 2 * ROWS // OF_TENANT
    move = "UPDATE composerd.jobs SET channel = %(channel)s WHERE seq = ANY (%(sequences)s::bigint[])"
    for nth, channel in enumerate((TENANT, "org-b", "org-c")):
        await fetch(move, {"channel": channel, "sequences": array(range(every - nth, 2 * ROWS + 1, every))})
    for statement in ("SELECT 1", "ANALYZE composerd.jobs"):
        await fetch(statement, {})
        for filter, read in [
            (JobFilter(channel=TENANT), 51),
            (JobFilter(channel=TENANT, state=JobState.CANCELED), OF_TENANT),
            (JobFilter(channel=TENANT, states=(JobState.CANCELED, JobState.FAILED)), OF_TENANT),
            (JobFilter(channel="org-none"), 0),
        ]:
            page, found = await plans(partial(instance.driver.list, filter, None, 50))
            assert {job.channel for job in page.jobs} == ({TENANT} if read == 51 else set())
            nodes = [node for plan in found for node in _nodes(plan["Plan"]) if "Index Name" in node]
            assert [node["Index Name"] for node in nodes] == ["jobs_channel"]
            seen = [node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in nodes]
            assert seen == [read], statement


async def _finish(instance: Instance, tokens: list[UUID]) -> None:

    await instance.driver.finish([Outcome(token, b"{}", failed=n % 2 == 0) for n, token in enumerate(tokens)])
