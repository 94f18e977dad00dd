"""The pace of a transfer, with time in hundredths of a second."""

import asyncio

import pytest

from composerd.http.pace import Pace, TooSlow

PERIOD = 0.08


async def forever() -> None:
    """Wait until canceled."""
    await asyncio.get_running_loop().create_future()


async def moving(pace: Pace, size: int, times: int) -> None:
    """Move some bytes again and again, often in a period."""
    for _ in range(times):
        pace.moved(size)
        await asyncio.sleep(PERIOD / 20)


async def test_a_transfer_that_stands_still_ends() -> None:
    """A transfer in which nothing moves for the period is ended, also if any rate is accepted."""
    with pytest.raises(TooSlow) as failed:
        async with Pace(PERIOD, 0):
            await forever()
    assert failed.value.details["limit"] == 1


async def test_a_transfer_that_stops_late_ends() -> None:
    """Bytes that were transferred before give no credit for standing still."""

    async def transfer() -> None:
        async with Pace(PERIOD, 10) as pace:
            pace.moved(1_000_000)
            await forever()

    with pytest.raises(TooSlow):
        await transfer()


async def test_a_slow_transfer_ends() -> None:
    """A transfer in which something moves all the time is ended if that is less than the rate allows."""
    with pytest.raises(TooSlow):
        async with Pace(PERIOD, 1_000_000) as pace:
            await moving(pace, 1, 1000)


async def test_a_fast_transfer_goes_on() -> None:
    """A transfer that is fast enough lasts as long as it likes."""
    async with Pace(PERIOD, 100) as pace:
        await moving(pace, 1000, 60)


async def test_what_is_unsent_has_not_moved() -> None:
    """Bytes that were written but are still in the server's memory do not count."""

    async def transfer() -> None:
        written = 0
        async with Pace(PERIOD, 1, lambda: written) as pace:
            for _ in range(1000):
                written += 100
                await moving(pace, 100, 1)

    with pytest.raises(TooSlow):
        await transfer()


async def test_time_in_which_the_client_waits_does_not_count() -> None:
    """While the server lets the client wait, the transfer may stand still; after that it has a period again."""
    async with Pace(PERIOD, 1000) as pace:
        with pace.paused():
            await asyncio.sleep(3 * PERIOD)
        await asyncio.sleep(PERIOD / 2)

    async def transfer() -> None:
        async with Pace(PERIOD, 1000) as pace:
            with pace.paused():
                await asyncio.sleep(PERIOD)
            await forever()

    with pytest.raises(TooSlow):
        await transfer()


async def test_short_pauses_give_no_time() -> None:
    """A slow transfer is ended although the server pauses for a moment after each part."""

    async def transfer() -> None:
        async with Pace(PERIOD, 1_000_000) as pace:
            for _ in range(1000):
                await moving(pace, 1, 1)
                with pace.paused():
                    await asyncio.sleep(0)

    with pytest.raises(TooSlow):
        await transfer()


async def test_errors_and_cancellation_pass() -> None:
    """An error of the block is raised, and a canceled task ends as canceled."""
    with pytest.raises(KeyError):
        async with Pace(PERIOD, 1):
            raise KeyError

    async def transfer() -> None:
        async with Pace(10, 1):
            await forever()

    task = asyncio.create_task(transfer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
