"""Files and their sweeping, on a store and a driver of which a test decides what happens in between."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast
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
"""A job that runs."""


class _Failing(DirectoryStore):
    """A store of which everything fails in words of its own."""

    name = "failing"

    async def check(self) -> None:
        raise KeyError("credentials")

    async def create(self, place: str) -> Writer:
        writer = await super().create(place)

        async def fail(*_: object) -> NoReturn:
            raise KeyError("credentials")

        for method in ("write", "commit", "abort"):
            setattr(writer, method, fail)
        return writer

    async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        yield [f"{JOB}/1/a"]
        raise KeyError("credentials")

    async def remove(self, places: Sequence[str]) -> None:
        raise KeyError("credentials")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_whatever_a_store_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is `Unavailable` with the store's name, and the log has the rest; an upload's own error is not hidden by its abort's."""
    files = Files(_Failing(tmp_path))
    with pytest.raises(Unavailable, match="failing: 'credentials'"):
        await files.check()
    with pytest.raises(Unavailable, match="failing"):
        await files.remove(["x"])
    with pytest.raises(Unavailable, match="failing"):
        assert [places async for places in files.list("")] == []
    with pytest.raises(Unavailable, match="failing"):  # noqa: PT012  # either of them
        async with files.upload(JOB, 1, 10) as upload:
            await upload.write(b"x")
            await upload.complete("a")
    assert "an upload left something behind" in caplog.text
    with pytest.raises(ZeroDivisionError):
        async with files.upload(JOB, 1, 10):
            raise ZeroDivisionError


class _Driver:
    """What a sweeper asks of a driver."""

    def __init__(self) -> None:
        self.job: Any = None
        self.attached: tuple[Artifact, ...] = ()
        self.looked = asyncio.Event()

    def runs(self, attempt: int) -> None:
        """An attempt runs."""
        self.job = SimpleNamespace(state=JobState.RUNNING, attempt=attempt, id=JOB)

    def waits(self, attempt: int) -> None:
        """None runs; so many have."""
        self.job = SimpleNamespace(state=JobState.READY, attempt=attempt, id=JOB)

    def ended(self, attempt: int, *places: str) -> None:
        """It has ended, with files in these places."""
        self.job = SimpleNamespace(state=JobState.FINISHED, attempt=attempt, id=JOB)
        self.attached = tuple(Artifact(str(nth), 1, "", place) for nth, place in enumerate(places))

    async def get(self, job_ids: Sequence[UUID]) -> list[Any]:
        self.looked.set()
        other = SimpleNamespace(state=JobState.RUNNING, attempt=1, id=OTHER)
        return [{JOB: self.job, OTHER: other}.get(job_id) for job_id in job_ids]

    async def artifacts(self, job_ids: Sequence[UUID]) -> list[tuple[Artifact, ...]]:
        return [self.attached if job_id == JOB else () for job_id in job_ids]


async def _put(files: Files, place: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    await files.copy(place, parts())


async def _left(files: Files, driver: _Driver) -> list[str]:
    """What is there when all was swept once."""
    sweeper = asyncio.create_task(Sweeper(files, cast(Driver, driver)).run())
    await driver.looked.wait()
    await asyncio.sleep(0.1)
    sweeper.cancel()
    await asyncio.wait([sweeper])
    return sorted([place async for places in files.list("") for place in places])


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (lambda driver: None, []),
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
async def test_what_is_swept(tmp_path: Path, state: Any, kept: list[str]) -> None:
    """A file stays while its attempt runs, or may begin; and if the job that ended names it."""
    files, driver = Files(DirectoryStore(tmp_path)), _Driver()
    for place in (f"{OTHER}/1/a", *(f"{JOB}/{rest}" for rest in ("1/a", "2/a", "3/a", "3/b"))):
        await _put(files, place)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "README").write_text("not ours")
    state(driver)
    assert await _left(files, driver) == sorted([*kept, f"{OTHER}/1/a"])
    assert (tmp_path / "lost+found").exists()
    assert (tmp_path / "README").exists()


async def test_what_another_storage_has_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of files of which the storage knows no job at all none is removed: more likely it is the wrong one."""
    files, driver = Files(DirectoryStore(tmp_path)), _Driver()
    await _put(files, f"{JOB}/1/a")
    assert await _left(files, driver) == [f"{JOB}/1/a"]
    assert "another storage's?" in caplog.text


async def test_a_job_that_ends_while_it_is_listed(tmp_path: Path) -> None:
    """Its files are looked up after they were listed: what it names by then stays, though nobody knew of it at the beginning."""

    class Slow(DirectoryStore):
        async def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
            async for places in super().list(prefix):
                driver.ended(1, f"{JOB}/1/a")
                yield places

    files, driver = Files(Slow(tmp_path)), _Driver()
    driver.waits(1)
    for name in "ab":
        await _put(files, f"{JOB}/1/{name}")
    assert await _left(files, driver) == [f"{JOB}/1/a"]
