"""The gate: of each client a few requests begin, or go on, at a time."""

import asyncio

from composerd.gate import STARTS, Gate


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
    """A client's many requests begin a few at a time; the first ones of another begin at once."""
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
    assert begun.count("loud") == STARTS
    flood[20].cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    assert begun.count("loud") == 49


async def test_others_go_on_beside_waits_that_end_together() -> None:
    """Of the waits of one client that end at the same moment, a few go on at a time."""
    gate = Gate()
    gate.enter("loud")
    gate.enter("quiet")
    await asyncio.sleep(0)
    went_on: list[str] = []
    for _ in range(50):
        gate.call("loud", lambda: went_on.append("loud"))
    assert len(went_on) == STARTS
    gate.call("quiet", lambda: went_on.append("quiet"))
    assert went_on[-1] == "quiet"
    while len(went_on) < 51:
        before = len(went_on)
        await asyncio.sleep(0)
        assert len(went_on) - before <= STARTS
