"""Turns of heavy requests: one at a time, and the clients in turns."""

import asyncio

import pytest

from composerd.errors import Unavailable
from composerd.http.turns import HEAVY_AT_ONCE, HEAVY_WAITING, PAUSE, Turns


async def settle() -> None:
    """Let everything run that can run."""
    for _ in range(5):
        await asyncio.sleep(2 * PAUSE)


async def test_heavy_requests_take_turns() -> None:
    """One heavy request runs at a time; the clients of those that wait take turns."""
    turns = Turns()
    order: list[str] = []
    running: list[asyncio.Event] = []

    async def work(client: str, name: str) -> None:
        turn = await turns.take(client)
        order.append(name)
        running.append(asyncio.Event())
        await running[-1].wait()
        turn.give_back()
        turn.give_back()

    tasks = [asyncio.create_task(work("loud", f"loud {n}")) for n in range(5)]
    await settle()
    tasks += [asyncio.create_task(work("quiet", f"quiet {n}")) for n in range(2)]
    await settle()
    assert order == ["loud 0"]
    assert len(running) == HEAVY_AT_ONCE == 1
    for n in range(7):
        running[n].set()
        await settle()
    assert order == ["loud 0", "loud 1", "quiet 0", "loud 2", "quiet 1", "loud 3", "loud 4"]
    await asyncio.gather(*tasks)
    assert turns._busy == 0


async def test_a_heavy_request_that_leaves() -> None:
    """A request that leaves the line, even when it just got its turn, leaves the turn to the next one."""
    turns = Turns()
    held = await turns.take("a")
    leaving, other = (asyncio.create_task(turns.take(client)) for client in "ab")
    await settle()
    held.give_back()  # wakes the first one
    leaving.cancel()
    (await other).give_back()
    assert (turns._busy, turns._waiting.used) == (0, 0)


async def test_too_many_heavy_requests() -> None:
    """A client whose heavy requests fill its share of the line is refused, and another is not."""
    turns = Turns()
    for _ in range(HEAVY_AT_ONCE):
        await turns.take("loud")
    tasks = [asyncio.create_task(turns.take("loud")) for _ in range(HEAVY_WAITING // 2)]
    await settle()
    with pytest.raises(Unavailable):
        await turns.take("loud")
    tasks.append(asyncio.create_task(turns.take("quiet")))
    await settle()
    assert not tasks[-1].done()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
