"""A lack of file descriptors or of memory passes: nothing was changed, and the same write succeeds later."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from composerd.errors import ResourcesExhausted, WritesStopped
from composerd.models import JobFilter
from composerd_fs.journal import writer
from composerd_fs.journal.io import write_all
from composerd_fs.journal.lock import DirectoryLock

from ..conftest import instance_of
from .test_full_disk import until

EXHAUSTED = pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=errno.errorcode.get)


def failing(error: int) -> Callable[..., Any]:
    """Return a function that raises an `OSError`."""

    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


def failing_once(error: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises an `OSError` the first time, and then does what another function does."""
    errors = [OSError(error, os.strerror(error))]

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()
        return function(*args, **kwargs)

    return fail_once


@EXHAUSTED
@pytest.mark.parametrize("step", ["write", "flush", "look at the place"])
async def test_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: int) -> None:
    """A write that lacks something is refused for now, and leaves nothing in the journal."""
    async with instance_of("fs", tmp_path) as instance:
        first = await instance.add()
        with monkeypatch.context() as patch:
            if step == "write":
                patch.setattr(writer, "write_all", failing_once(error, write_all))
            elif step == "flush":
                patch.setattr(os, "fdatasync", failing_once(error, os.fdatasync))
            else:
                patch.setattr(DirectoryLock, "lost", failing_once(error, DirectoryLock.lost))
            with pytest.raises(ResourcesExhausted, match=os.strerror(error)):
                await instance.add()
        second = await instance.add()
        for _ in range(2):
            found = await instance.driver.list(JobFilter(), None, 10)
            assert [job.id for job in found.jobs] == [second, first]
            await instance.driver.ping()
            await instance.reopen()


@EXHAUSTED
async def test_a_new_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """While no segment can be made, writes go on in the one that is open."""
    monkeypatch.setattr(writer, "SEGMENT_SIZE", 1000)
    async with instance_of("fs", tmp_path) as instance:
        journal: Any = instance.driver._journal  # type: ignore[attr-defined]
        job_ids = []
        with monkeypatch.context() as patch:
            patch.setattr(journal.directory, "create_descriptor", failing(error))
            job_ids += [await instance.add(args=b"x" * 500) for _ in range(5)]
            assert journal.segment == 1
        job_ids += [await instance.add(args=b"x" * 500) for _ in range(5)]
        assert journal.segment > 1
        await instance.reopen()
        assert [job and job.id for job in await instance.driver.get(job_ids)] == job_ids


async def test_a_segment_that_fails_for_another_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a segment cannot be made because the disk fails, nothing more is written until a restart."""
    monkeypatch.setattr(writer, "SEGMENT_SIZE", 100)
    async with instance_of("fs", tmp_path) as instance:
        await instance.add()
        monkeypatch.setattr(instance.driver._journal.directory, "create_descriptor", failing(errno.EIO))  # type: ignore[attr-defined]
        with pytest.raises(WritesStopped):
            await instance.add()
        monkeypatch.undo()
        with pytest.raises(WritesStopped):
            await instance.driver.ping()
        await instance.reopen()
        await instance.add()


@EXHAUSTED
async def test_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    """A checkpoint that cannot begin refuses no write, and is tried again."""
    async with instance_of("fs", tmp_path) as instance:
        driver: Any = instance.driver
        await instance.add()
        driver._compactor.due_at_bytes = 0
        driver._compactor._retry_after = 0.01
        create = driver._journal.directory.create_descriptor
        monkeypatch.setattr(driver._journal.directory, "create_descriptor", failing_once(error, create))
        await instance.add()
        assert "a checkpoint of the journal cannot begin, and will be tried again" in caplog.text
        await until(lambda: driver._compactor.checkpoint is not None)
