"""Tests that memory for jobs of many different types is given back when they are gone."""

import asyncio
import errno
import os
from collections.abc import Awaitable
from typing import Any

import pytest

from composerd.errors import StorageFull
from composerd.models import Key
from composerd_fs.journal.turn import Turn
from composerd_fs.state.table import Table

from ..conftest import instance_of
from .test_full_disk import until


async def test_shapes_of_a_checkpoint(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint has the shapes as they were numbered when it began; what no job has is given back after it."""
    async with instance_of("fs", tmp_path) as instance:
        driver: Any = instance.driver
        archive = driver._table.jobs.archive
        job_ids = [await instance.add(type=f"type{number}", channel="c") for number in range(6)]
        for job_id in job_ids:
            await instance.cancel(job_id)
        await instance.delete(job_ids[2])
        assert archive.shapes[2].key.type == ""
        monkeypatch.setattr(driver._compactor, "due_at_bytes", 0)
        release = asyncio.Event()
        over = Turn.over
        monkeypatch.setattr(Turn, "over", lambda turn: _wait(release, over(turn)))
        monkeypatch.setattr("composerd_fs.journal.compactor.JOBS_AT_ONCE", 0)
        job_ids.append(await instance.add(type="during"))
        await instance.delete(job_ids[5])
        await instance.delete(job_ids[4])
        await instance.cancel(job_ids[6])
        assert [shape.key.type for shape in archive.shapes][4:] == ["type4", "type5", "during"]
        monkeypatch.setattr("composerd_fs.journal.compactor.JOBS_AT_ONCE", 50)
        release.set()
        await until(lambda: driver._compactor._task is None)
        assert driver._compactor.checkpoint is not None
        left = [job_ids[number] for number in (0, 1, 3, 6)]
        assert [shape.key.type for shape in archive.shapes] == ["type0", "type1", "", "type3", "", "", "during"]
        for _ in range(2):
            found = await instance.driver.get(left)
            assert [job and job.type for job in found] == ["type0", "type1", "type3", "during"]
            await instance.reopen()
        jobs = instance.driver._table.jobs  # type: ignore[attr-defined]
        for job_id in left:
            await instance.delete(job_id)
        assert jobs.archive.shapes == []
        assert not jobs.interning._keys
        assert not jobs.interning._policies


async def _wait(release: asyncio.Event, after: Awaitable[None]) -> None:
    await release.wait()
    await after


async def test_nothing_is_left_of_types(tmp_path: Any) -> None:
    """Jobs of different types, archs, channels and policies leave nothing when they are gone, however they ended."""
    async with instance_of("fs", tmp_path) as instance:
        table: Table = instance.driver._table  # type: ignore[attr-defined]
        job_ids = []
        for number in range(8):
            key = Key(f"channel{number}", f"type{number}", f"arch{number}")
            how = {"idempotency_key": f"key{number}", "timeout": 100.0 + number}
            job_id = await instance.add(type=key.type, arch=key.arch, channel=key.channel, **how)
            job_ids.append(job_id)
            if number % 2:
                await instance.finish(await instance.take(job_id, (key,)))
            elif number % 4:
                await instance.cancel(job_id)
        for job_id in job_ids[::4]:
            await instance.reopen()
            await instance.cancel(job_id)
        table = instance.driver._table  # type: ignore[attr-defined]
        for job_id in job_ids:
            await instance.delete(job_id)
        assert not table.ready._heaps
        assert not table.ready._stale
        assert table.jobs.archive.shapes == []
        assert not table.jobs.interning._keys
        assert not table.jobs.interning._policies


async def test_nothing_is_left_of_types_on_a_full_disk(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submissions that are refused leave nothing, of whatever type they were."""
    async with instance_of("fs", tmp_path) as instance:
        table: Table = instance.driver._table  # type: ignore[attr-defined]

        def full(*_args: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("composerd_fs.journal.writer.write_all", full)
        for number in range(5):
            with pytest.raises(StorageFull):
                await instance.add(type=f"type{number}")
        assert not table.ready._heaps
        assert not table.ready._stale
        assert not table.jobs.interning._keys
        assert not table.jobs.interning._policies
