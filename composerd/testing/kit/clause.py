"""`clause`: makes a coroutine method a test of the kit that names what it holds. It needs no plugin for asyncio, and minds none."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from composerd.testing.kit.instance import Instance

LIMIT = 60.0
"""How long a test of the kit may take, in seconds: a driver that never answers is found out."""

Test = Callable[..., Awaitable[None]]


def clause(*ids: str, needs: str = "", opened: bool = True) -> Callable[[Test], Callable[..., None]]:
    """Let a coroutine method be the test of these clauses of specs/driver-contract.md.

    It gets a `Store` as its argument `store`, with a started driver on an empty storage, or, unless `opened`, one that
    has still to be started. `needs` names the capability without which the test is skipped; nothing else skips one.

    pytest sees a plain function, which runs the coroutine on a loop of its own: whether and how pytest-asyncio or anyio
    is used beside it makes no difference.
    """

    def decorate(test: Test) -> Callable[..., None]:
        @functools.wraps(test)
        def run(self: Any, instance: Instance, **arguments: Any) -> None:
            asyncio.run(_run(test, self, instance, arguments, needs=needs, opened=opened))

        marked: Callable[..., None] = pytest.mark.clause(*ids)(run)
        return marked

    return decorate


async def _run(
    test: Test, self: Any, instance: Instance, arguments: dict[str, Any], *, needs: str, opened: bool
) -> None:
    if needs and not getattr(instance.driver.capabilities, needs):
        pytest.skip(f"the driver says {needs}=False")
    try:
        async with asyncio.timeout(LIMIT):
            if opened:
                await instance.driver.start()
            await test(self, instance, **arguments)
    finally:
        await instance.close()
