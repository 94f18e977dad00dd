"""Random histories give the same answers on PostgreSQL as in memory, with restarts and killed connections."""

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from composerd.errors import ComposerdError
from composerd.models import NewJob
from composerd_fs import MemoryDriver
from composerd_postgres import PostgresDriver

from ...throwaway import Throwaway
from ..test_same_history import History

KILL = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)

STEPS = 150

WEIGHTS = {
    "enqueue": 24,
    "claim": 24,
    "finish": 20,
    "attach": 6,
    "release": 6,
    "cancel": 4,
    "delete": 4,
    "time": 8,
    "restart": 2,
    "kill": 2,
}


def steps_of(seed: int, count: int = STEPS) -> list[tuple[str, Any]]:
    """Return a random history. It mostly uses the latest tokens and jobs, so that most steps have something to do."""
    chance = random.Random(seed)

    def late() -> int:
        return chance.choice([-1, -1, -2, -2, -3, -4, -5, -6, chance.randrange(40)])

    made: dict[str, Callable[[], Any]] = {
        "enqueue": lambda: [
            {
                "dependencies": [late() for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 3]))],
                "priority": chance.randint(-1, 1),
                "arch": chance.choice([None, "x"]),
                "key": chance.choice([None, None, None, None, "k", "l"]),
                "fail": chance.random() < 0.4,
                "retry": chance.choice([0, 0, 1, 2]),
                "later": chance.random() < 0.15,
            }
            for _ in range(chance.randint(1, 4))
        ],
        "claim": lambda: chance.randint(1, 3),
        "finish": lambda: [(late(), chance.random() < 0.4) for _ in range(chance.randint(1, 3))],
        "attach": late,
        "release": late,
        "cancel": late,
        "delete": lambda: chance.randrange(40),
        "time": lambda: chance.choice([1.0, 11.0, 11.0, 70.0]),
        "restart": lambda: None,
        "kill": lambda: None,
    }
    weights = dict(WEIGHTS)
    if seed % 2:
        # The order of attempts that expire in one call of `advance` is unspecified, except where none was renewed: then
        # it is the order of the claims.
        weights["attach"] = 0
    else:
        made["time"] = lambda: chance.choice([1.0, 11.0])
    return [(kind, made[kind]()) for kind in chance.choices([*weights], [*weights.values()], k=count)]


@pytest.mark.parametrize("seed", range(12))
async def test_postgres_and_memory_agree(newest_postgres: Throwaway, seed: int) -> None:
    """PostgreSQL gives the same answers and stores the same jobs as memory, whatever happens to the connections."""
    url = newest_postgres.fresh()
    here, memory = History(await _opened(url)), History(MemoryDriver.from_url("memory:"))
    await memory.driver.start()
    try:
        for number, (kind, what) in enumerate(steps_of(seed)):
            where = f"step {number}, {kind}"
            if kind == "restart":
                if any(job.job.state == "running" for job in [one async for one in here.driver.dump()]):
                    continue  # a start gives them a new lease, and memory has no start
                await here.driver.close()
                here.driver = await _opened(url, here.shifted)
            elif kind == "kill":
                newest_postgres.sql(KILL)
                with contextlib.suppress(ComposerdError):  # the first call may fail; it stores nothing
                    await here.driver.enqueue(
                        [[NewJob(id=here.pick([], 0), type="t", dependencies=(here.pick([], 0),))]]
                    )
            else:
                assert await here.do(kind, what) == await memory.do(kind, what), where
                assert await here.everything() == await memory.everything(), where
        assert (await here.driver.check()).problems == ()
    finally:
        await here.driver.close()
        await memory.driver.close()


async def _opened(url: str, shifted: float = 0.0) -> PostgresDriver:
    driver = PostgresDriver.from_url(url)
    await driver.shift_clock(shifted)
    await driver.start()
    return driver
