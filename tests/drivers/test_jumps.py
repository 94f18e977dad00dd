"""Jumps of the clock in drivers of one process, beyond the contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from composerd.models import AttemptState, Touch, Worker
from composerd.testing.kit.instance import LEASE, Instance, due_within
from composerd_fs import FsDriver, MemoryDriver

from .broken.correct import Correct


@pytest.fixture(params=[FsDriver, MemoryDriver, Correct])
async def instance(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Instance]:
    """Return an empty storage of each driver of one process."""
    url = "memory:" if request.param is MemoryDriver else f"any:{tmp_path / 'storage'}"
    instance = Instance(request.param.from_url(url), lambda: request.param.from_url(url))
    await instance.driver.start()
    yield instance
    await instance.close()


@pytest.mark.parametrize("jump", [8 * 3600.0, -8 * 3600.0], ids=["forward", "back"])
async def test_workers_are_still_known(instance: Instance, jump: float) -> None:
    """After a jump the workers that were seen lately are known, the latest first; after that time they are not."""
    driver = instance.driver
    first, second = Worker(instance.id(), "x86_64"), Worker(instance.id(), "x86_64")
    await driver.seen([first])
    await instance.jump(jump)
    await driver.seen([second])
    assert [one.id for one in await driver.workers(60.0)] == [second.id, first.id]
    assert [one.id for one in await driver.workers(60.0, [first.id, second.id])] == [second.id, first.id]
    await instance.shift(70.0)
    assert await driver.workers(60.0) == []


async def test_a_handover_that_begins_after_grace(instance: Instance) -> None:
    """A handover that begins again after a full lease was given is due when it is over, not one lease later."""
    job_id = await instance.add()
    token = await instance.take(handover=50.0)
    await instance.freeze(100.0)
    touched = await instance.driver.touch([Touch(token, confirm=False)])
    assert touched.items[0].state is AttemptState.RUNNING
    assert due_within(touched.news.due_in, 50.0)
    assert await instance.pass_time(60.0) == [job_id]


async def test_an_attempt_that_begins_after_a_jump(instance: Instance) -> None:
    """An attempt that begins between a jump and the call that notices it has its job's whole timeout, and no more."""
    job_id = await instance.add(timeout=2 * LEASE)
    await instance.jump(8 * 3600.0)
    token = await instance.take(job_id)
    for _ in range(3):
        assert await instance.pass_time(LEASE / 2) == []
        await instance.touch(token)
    assert await instance.pass_time(LEASE / 2 + 10.0) == [job_id]
