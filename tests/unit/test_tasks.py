"""Stopping of background tasks."""

import asyncio

import pytest

from composerd.tasks import stop


async def test_a_task_that_loses_its_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that loses its cancellation is canceled again; failed and ended tasks are ignored."""
    monkeypatch.setattr("composerd.tasks.CANCEL_AGAIN_AFTER", 0.01)
    lost = 0

    async def losing() -> None:
        nonlocal lost
        while lost < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
        await asyncio.sleep(60)

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ZeroDivisionError

    tasks = [asyncio.create_task(coroutine) for coroutine in (losing(), failing(), asyncio.sleep(0))]
    await asyncio.sleep(0.01)
    await stop(*tasks)
    assert lost == 3
    assert tasks[0].cancelled()
    assert isinstance(tasks[1].exception(), ZeroDivisionError)
