"""The number of round trips to the database that the calls of a job's life take."""

from collections.abc import Awaitable, Sequence

import pytest

from composerd.models import Claim, JobState, Outcome, Touch
from composerd.testing.kit.instance import BUILD, PLENTY
from composerd_postgres.db.connection import Connection, Parameters, Rows
from composerd_postgres.db.copying import Payloads

from ..conftest import Open


async def test_round_trips(open_instance: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim and a heartbeat take one, a submission and a result three, and to propagate an end two more.

    Payloads are sent after the database has said that it waits for them.
    """
    instance = await open_instance()
    driver = instance.driver
    fetch, copy = Connection.fetch, Connection.copy
    count = 0

    async def counted(
        self: Connection, statement: str, parameters: Parameters, time_limit: float | None = None
    ) -> Rows:
        nonlocal count
        count += 1
        return await fetch(self, statement, parameters, time_limit)

    async def counted_copy(
        self: Connection, statement: str, parameters: Parameters, tables: Sequence[Payloads]
    ) -> None:
        nonlocal count
        count += 2
        await copy(self, statement, parameters, tables)

    monkeypatch.setattr(Connection, "fetch", counted)
    monkeypatch.setattr(Connection, "copy", counted_copy)

    async def round_trips(call: Awaitable[object]) -> int:
        nonlocal count
        count = 0
        await call
        return count

    first, second = instance.new(), instance.new(type="other")
    assert await round_trips(driver.enqueue([[first], [second]])) == 3
    dependent = instance.new(first.id, type="later")
    await driver.enqueue([[dependent]])
    tokens = [instance.id(), instance.id()]
    assert await round_trips(driver.claim([Claim(tokens[0], (BUILD,), 60.0)], PLENTY)) == 1
    assert await round_trips(driver.touch([Touch(tokens[0])])) == 1
    await driver.claim([Claim(tokens[1], (second.key,), 60.0)], PLENTY)
    assert await round_trips(driver.finish([Outcome(tokens[1], b"1")])) == 3
    assert await round_trips(driver.finish([Outcome(tokens[0], b"1")])) == 5
    assert await instance.state(dependent.id) is JobState.READY
