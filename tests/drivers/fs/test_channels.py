"""The index of the jobs of each channel: kept in no file, made again when the journal is read."""

import asyncio
import errno
import os
import random
from functools import partial
from typing import Any

import pytest

from composerd.errors import StorageFull
from composerd.models import JobFilter, JobState, Key
from composerd_fs.state.archive import Numbered
from composerd_fs.state.channels import ChannelIndex
from composerd_fs.state.jobs import Jobs

from ..conftest import Instance
from .test_full_disk import until


def full(*_args: object) -> int:
    """Refuse to write, as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that are added and removed in any order are found in theirs; nothing is left when all are gone."""
    monkeypatch.setattr("composerd_fs.state.channels._LARGEST_BLOCK", 4)
    rng = random.Random(7)
    index = ChannelIndex()
    kept: dict[str, set[int]] = {"a": set(), "b": set()}
    for step in range(4000):
        channel = rng.choice("ab")
        sequence = rng.randrange(300)
        if sequence in kept[channel]:
            kept[channel].remove(sequence)
            index.remove(channel, sequence)
        elif step < 3000:
            kept[channel].add(sequence)
            index.add(channel, sequence)
        if step % 10 == 0:
            before = rng.randrange(320)
            assert [*index.before(channel, before)] == sorted((n for n in kept[channel] if n < before), reverse=True)
    for channel, sequences in kept.items():
        for sequence in sequences:
            index.remove(channel, sequence)
    assert index._channels == {}


def test_the_empty_channel_is_not_indexed() -> None:
    """Jobs without a tenant take no memory in the index."""
    index = ChannelIndex()
    index.add("", 1)
    assert index._channels == {}
    index.remove("", 1)


def indexed(jobs: Jobs) -> dict[str, list[int]]:
    """Return the sequences of each channel in the index."""
    return {channel: [*jobs.channels.before(channel, 2**63 - 1)][::-1] for channel in jobs.channels._channels}


def expected(jobs: Jobs) -> dict[str, list[int]]:
    """Return what has to be in the index, from the jobs themselves."""
    found: dict[str, list[int]] = {}
    numbered: Numbered = jobs.by_sequence
    for chunk in numbered.chunks():
        for sequence, _ in numbered.chunk(chunk):
            seen = jobs.state_and_key_at(sequence)
            assert seen is not None
            if seen[1].channel:
                found.setdefault(seen[1].channel, []).append(sequence)
    return found


def _is_compacted(driver: Any) -> bool:
    return driver._compactor.checkpoint is not None and driver._compactor._task is None


async def test_what_a_start_makes_again(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is that of the jobs after changes, after a replay, and after a checkpoint with archived jobs."""
    ids = [await fs.add(channel=("", "a", "b")[n % 3]) for n in range(60)]
    for job_id in ids[10:40]:
        await fs.cancel(job_id)
    for job_id in ids[10:30:2]:
        await fs.delete(job_id)
    for compacting in (False, True):
        driver: Any = fs.driver
        jobs = driver._table.jobs
        assert set(indexed(jobs)) == {"a", "b"}
        assert indexed(jobs) == expected(jobs)
        before = indexed(jobs)
        if compacting:
            monkeypatch.setattr(driver._compactor, "due_at_bytes", 0)
            await fs.add(channel="a")
            await until(partial(_is_compacted, driver))
            before = indexed(jobs)
        await fs.reopen()
        driver = fs.driver
        assert indexed(driver._table.jobs) == before == expected(driver._table.jobs)


async def test_a_refused_flush(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that adds and deletes jobs changes nothing of the index if the disk is full, and all if it is not."""
    ids = [await fs.add(channel="a") for _ in range(5)]
    await fs.cancel(ids[2])
    driver: Any = fs.driver
    jobs = driver._table.jobs
    before = indexed(jobs)

    new = [[fs.new(channel="a")], [fs.new(channel="c")]]

    async def flush() -> list[object]:
        calls = driver.enqueue(new), driver.delete([ids[2]])
        return [*await asyncio.gather(*calls, return_exceptions=True)]

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        assert any(isinstance(one, StorageFull) for one in await flush())
    assert indexed(jobs) == before == expected(jobs)
    assert not [one for one in await flush() if isinstance(one, BaseException)]
    assert indexed(jobs) == expected(jobs)
    assert {channel: len(sequences) for channel, sequences in indexed(jobs).items()} == {"a": 5, "c": 1}


async def test_a_page_looks_at_one_channel(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a channel looks at no job of another one, with a filter on the state too."""
    for _ in range(3):
        await fs.add(channel="a")
        for _ in range(20):
            await fs.add(channel="b")
            await fs.add()
    driver: Any = fs.driver
    looked: list[int] = []
    find = Jobs.state_and_key_at

    def note(jobs: Jobs, sequence: int) -> tuple[JobState, Key] | None:
        looked.append(sequence)
        return find(jobs, sequence)

    monkeypatch.setattr(Jobs, "state_and_key_at", note)
    for filter, shown in [(JobFilter(channel="a"), 3), (JobFilter(channel="a", state=JobState.CANCELED), 0)]:
        looked.clear()
        page = await driver.list(filter, None, 100)
        assert (len(page.jobs), page.next, len(looked)) == (shown, None, 3)
