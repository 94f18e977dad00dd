"""The decorator `clause`: makes a coroutine method a test of the kit and marks it with the clauses that it tests.

It needs no pytest plugin for asyncio, and works beside any.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from composerd.testing.kit.instance import Instance

LIMIT = 60.0
"""The longest that a test of the kit may take, in seconds. A driver that never answers fails after this time."""

Test = Callable[..., Awaitable[None]]


def clause(*ids: str, needs: str = "", opened: bool = True) -> Callable[[Test], Callable[..., None]]:
    """Make a coroutine method a test that cites these clauses of specs/driver-contract.md.

    Args:
        ids: The numbers of the clauses, such as "C1".
        needs: The capabilities without which the test is skipped, such as "durable". Nothing else skips a test.
        opened: True if the test gets a driver that has been started on an empty storage; False if it starts the driver
            itself.

    The method receives an `Instance` as its argument `instance`. pytest sees a plain function, which runs the coroutine
    on an event loop of its own: it makes no difference whether pytest-asyncio or anyio is installed.
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
    for one in needs.split():
        if not getattr(instance.driver.capabilities, one):
            pytest.skip(f"the driver declares {one}=False")
    try:
        async with asyncio.timeout(LIMIT):
            if opened:
                await instance.driver.start()
            await test(self, instance, **arguments)
    finally:
        await instance.close()
