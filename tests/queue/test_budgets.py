"""The accounts of bytes in memory."""

import asyncio

import pytest

from composerd.errors import Unavailable
from composerd.queue import Account
from composerd.queue.budgets import Budgets


def test_one_body_always_fits() -> None:
    """However large a body may be, each account has room for the largest one while it is empty."""
    for largest in (1, 32 * 1024**2, 1024**3):
        budgets = Budgets(largest)
        for account in (budgets.submissions, budgets.results, budgets.claims, budgets.answers):
            account.check("client", largest)


def test_what_is_in_memory_counts_in_any_case() -> None:
    """Bytes in memory count beyond the share too, until the block ends, even with an exception."""
    account = Account("jobs", 100, 10)
    account.take("a", 50)
    with account.held("a", 80):
        assert account.used == 130
        assert account.room("b") == 0
        with pytest.raises(Unavailable, match=r"^too many bytes of jobs in memory$"):
            account.take("b")
    assert account.used == 50
    with pytest.raises(KeyError), account.held("a", 50):
        raise KeyError
    with account.taken("b", 25), pytest.raises(Unavailable):
        account.take("b", 1)
    assert account.used == 50


def test_looking_takes_nothing() -> None:
    """A check refuses what would not fit, and counts nothing."""
    account = Account("jobs", 100, 10)
    account.check("a", 50)
    assert account.used == 0
    with pytest.raises(Unavailable):
        account.check("a", 51)


async def test_waiting_for_room() -> None:
    """A wait ends when fewer bytes than the limit are counted; a canceled wait does not disturb another one."""
    account = Account("jobs", 100, 10)
    await account.wait_for_room()
    account.hold("a", 100)
    waits = [asyncio.create_task(account.wait_for_room()) for _ in range(2)]
    await asyncio.sleep(0)
    waits[0].cancel()
    await asyncio.wait([waits[0]])
    with account.held("a", 10):
        account.free("a", 10)
    assert not waits[1].done()
    account.free("a", 1)
    await waits[1]


async def test_a_wait_goes_on_if_the_room_is_taken_again() -> None:
    """A wait goes on if other bytes were counted before it could return."""
    account = Account("jobs", 100, 10)
    account.hold("a", 100)
    wait = asyncio.create_task(account.wait_for_room())
    await asyncio.sleep(0)
    account.free("a", 1)
    account.hold("a", 1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not wait.done()
    account.free("a", 1)
    await wait
