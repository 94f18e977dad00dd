"""Uploads whose files another server of the storage has removed, because their attempts were over."""

from collections.abc import AsyncIterator
from typing import Any, cast
from unittest import mock

import pytest

from composerd.driver.guard import Guard
from composerd.errors import AttemptFinished, Unavailable
from composerd.http.endpoints.artifacts import _complete
from composerd.ids import new_id
from composerd.models import NewJob
from composerd.queue import JobQueue, QueueOptions, keys_for
from composerd_fs import MemoryDriver


@pytest.fixture
async def queue() -> AsyncIterator[JobQueue]:
    """Run a queue."""
    options = QueueOptions(
        heartbeat_timeout=120, handover_timeout=10, sweep_interval=3600, worker_timeout=3600, max_waits=10
    )
    driver = MemoryDriver()
    await driver.start()
    async with JobQueue(Guard(driver), options).running() as queue:
        yield queue


async def test_a_file_that_is_gone(queue: JobQueue) -> None:
    """While the attempt runs, that is the fault of the artifact store; after that the attempt's end is the answer."""
    await queue.submit([NewJob(id=new_id(), type="build")])
    claimed = await queue.request(keys_for("", ["build"], "x86_64"), confirm=False, wait=0)
    assert claimed is not None
    upload = cast(Any, mock.Mock(complete=mock.AsyncMock(side_effect=Unavailable("no such file"))))
    with pytest.raises(Unavailable):
        await _complete(queue, claimed.token, upload, "disk")
    await queue.finish(claimed.token, b"1", failed=False)
    with pytest.raises(AttemptFinished):
        await _complete(queue, claimed.token, upload, "disk")
