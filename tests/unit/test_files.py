"""Files and their sweeping, with a store and a driver whose timing the test decides."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast
from unittest import mock
from uuid import UUID, uuid4

import pytest

from composerd.artifacts.contract import Writer
from composerd.artifacts.directory import DirectoryStore
from composerd.artifacts.files import Files
from composerd.artifacts.sweeper import Sweeper
from composerd.driver import Driver
from composerd.errors import Unavailable
from composerd.models import Artifact, JobState

JOB = uuid4()
OTHER = uuid4()
"""A running job."""


class _Failing(DirectoryStore):
    """A store whose methods raise an exception of their own."""

    name = "failing"

    async def check(self) -> None:
        raise KeyError("credentials")

    async def create(self, location: str) -> Writer:
        writer = await super().create(location)

        async def fail(*_: object) -> NoReturn:
            raise KeyError("credentials")

        for method in ("write", "commit", "abort"):
            setattr(writer, method, fail)
        return writer

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        yield [f"{JOB}/1/a"]
        raise KeyError("credentials")

    async def remove(self, locations: Sequence[str]) -> None:
        raise KeyError("credentials")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_any_exception_of_a_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Any exception of a store becomes `Unavailable`; a failed abort does not hide an upload's own error."""
    files = Files(_Failing(tmp_path))
    with pytest.raises(Unavailable, match="artifact store failing failed: 'credentials'"):
        await files.check()
    with pytest.raises(Unavailable, match="failing"):
        await files.remove(["x"])
    with pytest.raises(Unavailable, match="failing"):
        _ = [locations async for locations in files.list("")]
    with pytest.raises(Unavailable, match="failing"):  # noqa: PT012  # either call may raise
        async with (
            files.allowances.upload(uuid4(), "a", nothing) as allowance,
            files.upload(JOB, 1, allowance) as upload,
        ):
            await upload.write(b"x")
            await upload.complete("a")
    assert "an upload was not cleaned up" in caplog.text
    with pytest.raises(ZeroDivisionError):
        async with files.allowances.upload(uuid4(), "a", nothing) as allowance, files.upload(JOB, 1, allowance):
            raise ZeroDivisionError


async def nothing() -> Sequence[Artifact]:
    """Return the files of an attempt that has none."""
    return ()


class _Driver:
    """The methods of a driver that a sweeper calls."""

    def __init__(self) -> None:
        self.job: Any = None
        self.attached: tuple[Artifact, ...] = ()

    def runs(self, attempt: int) -> None:
        """Let an attempt run."""
        self.job = SimpleNamespace(state=JobState.RUNNING, attempt=attempt, id=JOB)

    def waits(self, attempt: int) -> None:
        """Let no attempt run, after this many attempts."""
        self.job = SimpleNamespace(state=JobState.READY, attempt=attempt, id=JOB)

    def ended(self, attempt: int, *locations: str) -> None:
        """Let the job have ended, with files at these locations."""
        self.job = SimpleNamespace(state=JobState.FINISHED, attempt=attempt, id=JOB)
        self.attached = tuple(Artifact(str(nth), 1, "", location) for nth, location in enumerate(locations))

    async def get(self, job_ids: Sequence[UUID]) -> list[Any]:
        other = SimpleNamespace(state=JobState.RUNNING, attempt=1, id=OTHER)
        return [{JOB: self.job, OTHER: other}.get(job_id) for job_id in job_ids]

    listed = get

    async def artifacts(self, job_ids: Sequence[UUID]) -> list[tuple[Artifact, ...]]:
        return [self.attached if job_id == JOB else () for job_id in job_ids]


async def _put(files: Files, location: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    await files.copy(location, parts())


async def _left(files: Files, driver: _Driver) -> list[str]:
    """Return the files that are left after one sweep."""
    sweeper = Sweeper(files, cast(Driver, driver))
    swept = asyncio.Event()
    get = sweeper._due.get

    async def waiting() -> UUID:
        swept.set()
        return await get()

    with mock.patch.object(sweeper._due, "get", waiting):
        sweeping = asyncio.create_task(sweeper.run())
        await swept.wait()
        sweeping.cancel()
        await asyncio.wait([sweeping])
    return sorted([location async for locations in files.list("") for location in locations])


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (lambda _driver: None, []),
        (lambda driver: driver.ended(3, f"{JOB}/3/a"), [f"{JOB}/3/a"]),
        (lambda driver: driver.ended(3), []),
        (lambda driver: driver.runs(3), [f"{JOB}/3/a", f"{JOB}/3/b"]),
        (lambda driver: driver.runs(2), [f"{JOB}/2/a", f"{JOB}/3/a", f"{JOB}/3/b"]),
        (lambda driver: driver.waits(3), []),
        (lambda driver: driver.waits(2), [f"{JOB}/3/a", f"{JOB}/3/b"]),
        (lambda driver: driver.waits(0), [f"{JOB}/{n}" for n in ("1/a", "2/a", "3/a", "3/b")]),
    ],
    ids=["gone", "ended", "ended without", "runs", "runs an older one", "waits", "waits, as seen before", "fresh"],
)
async def test_swept_files(tmp_path: Path, state: Any, kept: list[str]) -> None:
    """A file is kept while its attempt runs or may begin, and if the ended job names it."""
    files, driver = Files(DirectoryStore(tmp_path)), _Driver()
    for location in (f"{OTHER}/1/a", *(f"{JOB}/{rest}" for rest in ("1/a", "2/a", "3/a", "3/b"))):
        await _put(files, location)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "README").write_text("not ours")
    state(driver)
    assert await _left(files, driver) == sorted([*kept, f"{OTHER}/1/a"])
    assert (tmp_path / "lost+found").exists()
    assert (tmp_path / "README").exists()


async def test_files_of_another_storage_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No file is removed if the storage knows none of the jobs: it is probably the wrong storage."""
    files, driver = Files(DirectoryStore(tmp_path)), _Driver()
    await _put(files, f"{JOB}/1/a")
    assert await _left(files, driver) == [f"{JOB}/1/a"]
    assert "check that --storage and --artifacts belong together" in caplog.text


async def test_a_job_that_ends_while_it_is_listed(tmp_path: Path) -> None:
    """A file is kept if its job ends, and names it, while the files are listed."""

    class Slow(DirectoryStore):
        async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
            async for locations in super().list(prefix):
                driver.ended(1, f"{JOB}/1/a")
                yield locations

    files, driver = Files(Slow(tmp_path)), _Driver()
    driver.waits(1)
    for name in "ab":
        await _put(files, f"{JOB}/1/{name}")
    assert await _left(files, driver) == [f"{JOB}/1/a"]


async def test_a_file_is_gone_when_its_upload_is_canceled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An upload that ends with its attempt says nothing in the log if its file has been removed already."""
    files = Files(DirectoryStore(tmp_path))
    await files.start()
    committing, gone = asyncio.Event(), asyncio.Event()

    async def commit() -> None:
        committing.set()
        await gone.wait()
        raise Unavailable("no such file")

    async def nothing() -> Sequence[Artifact]:
        return ()

    async def upload() -> None:
        async with (
            files.allowances.upload(uuid4(), "disk", nothing) as allowance,
            files.upload(JOB, 1, allowance) as upload,
        ):
            upload._writer.commit = commit  # type: ignore[union-attr,method-assign]
            await upload.complete("disk")

    uploading = asyncio.create_task(upload())
    await committing.wait()
    uploading.cancel()
    await asyncio.sleep(0)
    gone.set()
    await asyncio.wait([uploading])
    assert uploading.cancelled()
    del uploading
    gc.collect()
    assert not caplog.records
    await files.close()
