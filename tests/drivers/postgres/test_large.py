"""Large payloads: every byte comes back, and the event loop has time for others meanwhile."""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import pytest

from composerd.models import Claim, Outcome, PayloadKind, PayloadRef
from composerd.testing.kit.instance import BUILD, PLENTY
from composerd_postgres.db.connection import Broken
from composerd_postgres.db.copying import CHUNK
from composerd_postgres.sql.payloads import LARGE

from ...throwaway import Throwaway
from ..conftest import Open

T = TypeVar("T")

SIZE = 30 * 1024 * 1024

LONGEST_STEP = 0.1
"""Processor time in seconds that one step of the event loop may take: a third of what quoting such a payload takes."""


async def _longest_step(call: Awaitable[T]) -> tuple[float, T]:
    """Return the most processor time that the event loop spent between two looks during a call, and the answer."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    watching = asyncio.create_task(watch())
    answer = await call
    watching.cancel()
    return longest, answer


async def test_others_go_on_while_a_large_payload_is_written(open_instance: Open) -> None:
    """A submission and an outcome of 30 MiB keep the event loop busy for a moment only."""
    instance = await open_instance()
    driver = instance.driver
    body = os.urandom(SIZE)
    new = instance.new(args=body)
    steps = [(await _longest_step(driver.enqueue([[new]])))[0]]
    token = instance.id()
    (claimed,) = (await driver.claim([Claim(token, (BUILD,), 60.0)], PLENTY)).items
    assert claimed is not None
    assert claimed.args == body
    steps.append((await _longest_step(driver.finish([Outcome(token, body)])))[0])
    assert await driver.payload([PayloadRef(new.id, PayloadKind.RESULT)]) == [body]
    assert max(steps) < LONGEST_STEP


@pytest.mark.parametrize("size", [0, 1, LARGE // 4 * 3 - 60, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 43])
async def test_payloads_of_any_size(open_instance: Open, size: int) -> None:
    """Args and results of any size come back as they were, alone and several in one call."""
    instance = await open_instance()
    bodies = [os.urandom(size), b"", os.urandom(size + 1)]
    ids = [await instance.add(args=body) for body in bodies]
    tokens = [instance.id() for _ in ids]
    claimed = (await instance.driver.claim([Claim(token, (BUILD,), 60.0) for token in tokens], PLENTY)).items
    assert [one and one.args for one in claimed] == bodies
    await instance.driver.finish([Outcome(token, body[::-1]) for token, body in zip(tokens, bodies, strict=True)])
    refs = [PayloadRef(one, kind) for one in ids for kind in PayloadKind]
    assert await instance.driver.payload(refs) == [each for body in bodies for each in (body, body[::-1])]
    dumped = await instance.dump()
    assert [(one.new.args, one.result) for one in dumped if one.new.args] == [(b, b[::-1]) for b in bodies if b]


async def test_something_arrives_while_payloads_are_sent(open_instance: Open, newest_postgres: Throwaway) -> None:
    """Whatever arrives while payloads are sent is not taken for an answer, and the connection goes on afterwards."""
    instance = await open_instance()
    session: Any = instance.driver._session  # type: ignore[attr-defined]
    body = os.urandom(4 * CHUNK)
    async with session.connections.one() as connection:
        await connection.fetch("CREATE TEMPORARY TABLE large (job_id uuid, body bytea); LISTEN something", {})
        text = "SELECT pg_sleep(0.1); COPY large FROM STDIN (FORMAT binary); SELECT pg_sleep(0.1)"
        copying = asyncio.create_task(connection.copy(text, {}, [[(instance.id(), body)]]))
        for _ in range(10):
            newest_postgres.sql("NOTIFY something")
            await asyncio.sleep(0.01)
        await copying
        (row,) = await connection.fetch("SELECT sha256(body) AS digest FROM large", {})
        connection.close()
    assert bytes(row.digest) == hashlib.sha256(body).digest()


async def test_the_connection_is_lost_while_payloads_are_sent(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A connection that the database ends within a COPY counts as lost, and nothing is left of its socket."""
    instance = await open_instance()
    session: Any = instance.driver._session  # type: ignore[attr-defined]
    async with session.connections.one() as connection:
        (row,) = await connection.fetch(
            "CREATE TEMPORARY TABLE large (job_id uuid, body bytea); SELECT pg_backend_pid() AS pid", {}
        )
        text = "SELECT pg_sleep(60); COPY large FROM STDIN (FORMAT binary)"
        copying = asyncio.create_task(connection.copy(text, {}, [[(instance.id(), b"x")]]))
        sleeping = f"SELECT FROM pg_stat_activity WHERE pid = {row.pid} AND wait_event = 'PgSleep'"
        while not newest_postgres.sql(sleeping):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        newest_postgres.sql(f"SELECT pg_terminate_backend({row.pid})")
        with pytest.raises(Broken, match="terminating connection"):
            await copying
        assert connection.closed
    await instance.add(args=b"[1]")
