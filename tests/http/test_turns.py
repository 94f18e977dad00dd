"""Turns of requests: heavy ones one at a time, and of each client a few beginnings in a turn of the event loop."""

import asyncio

import pytest

from composerd.errors import Unavailable
from composerd.http.turns import HEAVY_AT_ONCE, HEAVY_WAITING, PAUSE, STARTS, Gate, Turns


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


async def test_one_client_begins_at_once() -> None:
    """While there is one client only, all its requests begin at once."""
    gate = Gate()
    begun = 0

    async def request(client: str) -> None:
        nonlocal begun
        if (turn := gate.enter(client)) is not None:
            await turn
        begun += 1

    tasks = [asyncio.create_task(request("a")) for _ in range(50)]
    await asyncio.sleep(0)
    assert begun == 50
    await asyncio.gather(*tasks)


async def test_others_begin_beside_a_flood() -> None:
    """A client's many requests begin a few in each turn of the event loop; the first ones of another begin at once."""
    gate = Gate()
    begun: list[str] = []

    async def request(client: str) -> None:
        if (turn := gate.enter(client)) is not None:
            await turn
        begun.append(client)

    await request("quiet")
    flood = [asyncio.create_task(request("loud")) for _ in range(50)]
    await asyncio.sleep(0)
    assert begun.count("loud") == STARTS
    other = asyncio.create_task(request("quiet"))
    await asyncio.sleep(0)
    assert other.done()
    assert begun.count("loud") <= 2 * STARTS
    flood[20].cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    assert begun.count("loud") == 49
