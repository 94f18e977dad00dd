"""Tokens in the database are hashes, also those of earlier versions, and stay valid when jobs are moved."""

from typing import Any

import pytest

from composerd.driver.guard import Guard
from composerd.driver.tokens import hashed, is_hash
from composerd.ids import new_id
from composerd.models import Artifact, Attachment, AttemptState, Outcome, Touch, Verdict
from composerd.testing.kit.instance import Instance, add_jobs_in_every_state
from composerd_fs import MemoryDriver
from composerd_postgres import PostgresDriver
from composerd_postgres.db.connection import Collision, Connection, Rows

from ...throwaway import Throwaway
from ..conftest import Open
from .old_schemas import ENDED_TOKEN, JOB, TOKEN, old_storage

OLD = 6
"""The last migration of a storage that keeps tokens."""


def test_a_hash_is_no_token() -> None:
    """The hash of a token is a UUID of a version that no token has, and the same at each call."""
    token = new_id()
    assert hashed(token).version == 8
    assert is_hash(hashed(token))
    assert not is_hash(token)
    assert hashed(token) == hashed(token) != hashed(new_id())


async def test_no_token_is_stored(open_instance: Open, newest_postgres: Throwaway) -> None:
    """No row of any table contains a token, and what a reader of the database finds in its place is unknown."""
    instance = await open_instance()
    driver = instance.driver
    assert isinstance(driver, PostgresDriver)
    schema = driver.options.schema
    job_id = await instance.add()
    token = new_id()
    assert await instance.take(job_id, token=token) == token
    for table in ("attempts", "leases", "jobs"):
        (text,) = newest_postgres.sql(f"SELECT string_agg(t::text, ' ') FROM {schema}.{table} t")[0]
        assert str(token) not in text
    ((kept,),) = newest_postgres.sql(f"SELECT token_hash FROM {schema}.leases")
    assert kept == str(hashed(token))
    assert await instance.touch(hashed(token)) is AttemptState.UNKNOWN
    assert await instance.finish(hashed(token)) is Verdict.UNKNOWN
    assert await instance.touch(token) is AttemptState.RUNNING
    assert await instance.finish(token) is Verdict.ACCEPTED


async def test_tokens_of_earlier_versions(postgres: Throwaway) -> None:
    """Attempts of a storage that had tokens go on after the upgrade: a heartbeat and an outcome find them."""
    driver = await old_storage(postgres, OLD)
    await driver.start()
    instance = Instance(driver, lambda: PostgresDriver(driver.options))
    rows = postgres.sql(f"SELECT token_hash FROM {driver.options.schema}.attempts ORDER BY job_id")
    assert rows == [(str(hashed(TOKEN)),), (str(hashed(ENDED_TOKEN)),)]
    assert await instance.touch(TOKEN) is AttemptState.RUNNING
    assert await instance.claim(token=TOKEN) is not None  # a repetition of the claim
    assert await instance.finish(ENDED_TOKEN, b"1") is Verdict.ACCEPTED
    assert await instance.finish(TOKEN, b"1") is Verdict.ACCEPTED
    assert (await instance.get(JOB)).attempt == 1
    await driver.close()


async def test_a_migration_that_collides(newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that PostgreSQL aborts, because a running server has locked what it needs, is tried again."""
    driver = await old_storage(newest_postgres, OLD)
    fetch = Connection.fetch
    collided = 0

    async def colliding(self: Connection, statement: str, *rest: Any) -> Rows:
        nonlocal collided
        if "RENAME COLUMN token" in statement and not collided:
            collided += 1
            await fetch(self, f'LOCK TABLE "{driver.options.schema}".leases', {})
            raise Collision("deadlock detected")
        return await fetch(self, statement, *rest)

    monkeypatch.setattr(Connection, "fetch", colliding)
    await driver.start()
    assert collided == 1
    assert newest_postgres.sql(f"SELECT token_hash FROM {driver.options.schema}.leases") == [(str(hashed(TOKEN)),)]
    await driver.close()


@pytest.mark.parametrize("statement", ["touch", "claim", "finish"])
async def test_servers_of_earlier_versions(newest_postgres: Throwaway, statement: str) -> None:
    """A server that looks for tokens is refused by the database, so that it takes no attempt for unknown."""
    driver = await old_storage(newest_postgres, OLD)
    await driver.migrate()
    schema = driver.options.schema
    texts = {
        "touch": f"SELECT FROM {schema}.leases l WHERE l.token = '{TOKEN}'",
        "claim": f"SELECT FROM {schema}.claim('[]', '[]', 1, '0')",
        "finish": f"SELECT FROM {schema}.attempts a WHERE a.token = '{TOKEN}'",
    }
    with pytest.raises(Exception, match="does not exist"):
        newest_postgres.sql(texts[statement])


async def test_moved_to_a_storage_that_keeps_tokens(open_instance: Open) -> None:
    """After a move, a worker's token stands for its attempt in the new storage, and the hash stands for nothing."""
    instance = await open_instance()
    await add_jobs_in_every_state(instance)
    tokens = [new_id() for _ in range(3)]
    for token in tokens:
        await instance.take(await instance.add(priority=100), token=token)
    memory = MemoryDriver.from_url("memory:")
    await memory.start()
    await memory.load(await instance.dump())
    guarded = Guard(memory)
    unknown = new_id()
    touches = [Touch(one) for one in (unknown, tokens[0], hashed(tokens[1]), tokens[2])]
    answers = (await guarded.touch(touches)).items
    running, gone = AttemptState.RUNNING, AttemptState.UNKNOWN
    assert [answer.state for answer in answers] == [gone, running, gone, running]
    outcome = Outcome(tokens[0], b"1")
    for _ in range(2):
        assert (await guarded.finish([outcome])).items[0].verdict is Verdict.ACCEPTED
    assert (await guarded.finish([Outcome(hashed(tokens[1]), b"1")])).items[0].verdict is Verdict.UNKNOWN
    assert (await guarded.release([tokens[1], unknown])).items[0].state is running
    (attached,) = (await guarded.attach([Attachment(tokens[2], Artifact("log", 1, "ab" * 32, "somewhere"))])).items
    assert attached.attempt.state is running
    again = await open_instance()
    await again.empty()
    await again.driver.load([one async for one in memory.dump()])
    assert await again.touch(tokens[2]) is running
    await memory.close()
