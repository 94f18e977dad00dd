"""The limit on bytes of bodies in memory."""

import asyncio

import pytest

from composerd.errors import Unavailable
from composerd.queue import Budget


def test_bytes_up_to_the_limit_are_taken() -> None:
    """Bytes are refused only if they would exceed the limit, and freed bytes may be taken again."""
    budget = Budget(100)
    budget.take(60)
    budget.take(40)
    with pytest.raises(Unavailable, match=r"^too many bytes of bodies in memory$") as raised:
        budget.take(1)
    assert raised.value.details == {"limit": 100}
    budget.free(40)
    assert budget.used == 60
    budget.take(40)


def test_one_body_may_exceed_the_limit() -> None:
    """A body larger than the limit is accepted while nothing else is in memory, and only then."""
    budget = Budget(100)
    budget.take(101)
    budget.free(101)
    budget.take(1)
    with pytest.raises(Unavailable):
        budget.take(101)


def test_bytes_in_memory_are_counted_in_any_case() -> None:
    """A reservation counts bytes over the limit too, and frees them when its block ends, even with an exception."""
    budget = Budget(100)
    budget.take(100)
    with budget.reserve(50):
        assert budget.used == 150
    assert budget.used == 100
    with pytest.raises(KeyError), budget.reserve(50):
        raise KeyError
    assert budget.used == 100


async def test_waiting_for_room() -> None:
    """A wait ends when fewer bytes than the limit are counted; a canceled wait does not disturb another one."""
    budget = Budget(100)
    await budget.wait_for_room()
    budget.take(100)
    waits = [asyncio.create_task(budget.wait_for_room()) for _ in range(2)]
    await asyncio.sleep(0)
    waits[0].cancel()
    await asyncio.wait([waits[0]])
    with budget.reserve(10):
        budget.free(10)
    assert not waits[1].done()
    budget.free(1)
    await waits[1]


async def test_a_wait_goes_on_if_the_room_is_taken_again() -> None:
    """A wait goes on if other bytes were counted before it could return."""
    budget = Budget(100)
    budget.take(100)
    wait = asyncio.create_task(budget.wait_for_room())
    await asyncio.sleep(0)
    budget.free(1)
    budget.take(1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not wait.done()
    budget.free(1)
    await wait
