"""Values that are computed at most once a second."""

import asyncio

import pytest

from composerd.http import latest
from composerd.http.latest import Latest


class Counted:
    """A computation that counts how often it was made, and that waits until it may end."""

    def __init__(self) -> None:
        self.made = 0
        self.may_end = asyncio.Event()

    async def compute(self) -> int:
        """Return how often this was computed, or fail the second time."""
        self.made += 1
        made = self.made
        await self.may_end.wait()
        if made == 2:
            raise ValueError("the second one")
        return made


async def test_those_who_ask_share_a_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks while a value is computed, or within a second of that, gets the same value or the same error."""
    counted = Counted()
    value = Latest(counted.compute)
    asking = [asyncio.create_task(value.get()) for _ in range(10)]
    await asyncio.sleep(0)
    asking[0].cancel()
    counted.may_end.set()
    assert await asyncio.gather(*asking[1:]) == [1] * 9
    assert await value.get() == 1
    monkeypatch.setattr(latest, "EVERY", 0.0)
    value._next_at = 0.0
    with pytest.raises(ValueError, match="the second one"):
        await value.get()
    assert await value.get() == 3


async def test_a_computation_that_hangs() -> None:
    """A computation that hangs is not made again meanwhile, and is canceled when the server stops."""
    counted = Counted()
    value = Latest(counted.compute)
    asking = [asyncio.create_task(value.get()) for _ in range(3)]
    await asyncio.sleep(0.01)
    await value.close()
    assert counted.made == 1
    assert all(isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*asking, return_exceptions=True))
