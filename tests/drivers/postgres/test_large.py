"""Large payloads: every byte comes back, and the event loop has time for others meanwhile."""

import asyncio
import os
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import pytest

from composerd.models import Claim, Outcome, PayloadKind, PayloadRef
from composerd.testing.kit.instance import BUILD, PLENTY
from composerd_postgres.db.literal import LARGE, Literal
from composerd_postgres.sql import payloads

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


@pytest.mark.parametrize("size", [0, 1, LARGE // 4 * 3 - 60, LARGE - 1, LARGE, LARGE + 1, 2 * payloads._PIECE + 2])
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


async def test_something_arrives_while_a_large_statement_is_sent(
    open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever arrives before a large statement was sent is not taken for its answer."""
    instance = await open_instance()
    session: Any = instance.driver._session  # type: ignore[attr-defined]
    to_thread = asyncio.to_thread

    async def later(*args: Any) -> Any:
        newest_postgres.sql("NOTIFY something")
        await asyncio.sleep(0.1)  # the event loop sees what has arrived
        return await to_thread(*args)

    async with session.connections.one() as connection:
        await connection.fetch("LISTEN something", {})
        monkeypatch.setattr(asyncio, "to_thread", later)
        text = Literal(b"'%s'" % (b"x" * LARGE))
        (row,) = await connection.fetch("SELECT length(%(text)s) AS length FROM pg_sleep(0.2)", {"text": text})
        connection.close()
    assert row.length == LARGE
