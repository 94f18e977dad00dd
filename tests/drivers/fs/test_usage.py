"""Counts of the jobs of each channel by the fs driver: kept in no file, counted when the journal is read."""

import asyncio
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from composerd.driver import Usage
from composerd.errors import StorageFull
from composerd.models import Artifact, Attachment, Claim, OnDependencyFailure, Outcome
from composerd.testing.kit.instance import BUILD, LEASE, PLENTY
from composerd_fs import FsDriver
from composerd_fs.state.queries import counted_usage
from composerd_fs.state.table import Table

from ..conftest import Instance, opened

LARGE = b'"' + b"x" * 100 + b'"'
"""A payload that is too large to be in its entry."""

WRITTEN = Path(__file__).with_name("written")


def full(*_args: object) -> int:
    """Refuse to write, as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_storages_from_before_are_counted(tmp_path: Path) -> None:
    """A start counts the jobs of a journal, and of a checkpoint with archived jobs, that earlier versions wrote."""
    for written in WRITTEN.iterdir():
        shutil.copytree(written / "journal", tmp_path / written.name / "journal")
        driver = await opened(tmp_path / written.name)
        table: Table = driver._table
        assert counted_usage(table).differing(table.jobs.usage) == []
        (used,) = await driver.usage([""])
        assert used.payloads > 0
        assert used.artifacts > 0
        await driver.close()


async def test_a_channel_without_jobs_is_forgotten(fs: Instance) -> None:
    """A channel whose last job is deleted takes no memory any more."""
    for n in range(3):
        job_id = await fs.add(channel=f"c{n}")
        await fs.cancel(job_id)
        await fs.delete(job_id)
    table: Table = fs.driver._table  # type: ignore[attr-defined]
    assert table.jobs.usage.channels == set()


async def test_a_refused_flush_counts_nothing(fs: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush in which jobs go through all their states changes no count if the disk is full, and all if it is not."""
    old = await fs.take(await fs.add(args=LARGE))
    job, strict = fs.new(args=LARGE), fs.new(fs.id(), on_dependency_failure=OnDependencyFailure.FAIL)
    strict = msgspec.structs.replace(strict, dependencies=(job.id,))
    token = fs.id()
    file = Artifact("a", 9, "ab" * 32, "location")

    async def flush() -> Sequence[object]:
        return await asyncio.gather(
            fs.driver.enqueue([[job, strict]]),
            fs.driver.claim([Claim(token, (BUILD,), LEASE)], PLENTY),
            fs.driver.attach([Attachment(one, file) for one in (token, old)]),
            fs.driver.finish([Outcome(token, LARGE, failed=True)]),
            fs.driver.release([old]),
            fs.driver.delete([strict.id, job.id]),
            return_exceptions=True,
        )

    before = await fs.driver.usage([""])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert any(isinstance(one, StorageFull) for one in await flush())
    assert await fs.driver.usage([""]) == before == [Usage(0, 1, len(LARGE), 0)]
    assert not [one for one in await flush() if isinstance(one, BaseException)]
    assert await fs.driver.usage([""]) == [Usage(1, 0, len(LARGE), 0)]
    table: Table = fs.driver._table  # type: ignore[attr-defined]
    assert counted_usage(table).differing(table.jobs.usage) == []


async def test_a_check_counts(fs: Instance) -> None:
    """A check compares the counts with the jobs."""
    await fs.add(channel="c")
    await fs.driver.close()
    check = await FsDriver(fs.directory).check()
    assert check.problems == ()
    driver = FsDriver(fs.directory)
    driver._table.jobs.usage.count("c", 0, 0, 5)
    (problem,) = (await driver.check()).problems
    assert f"channel 'c' use {Usage(1, 0, 7, 0)}" in problem
