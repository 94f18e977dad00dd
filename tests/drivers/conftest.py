"""A fresh driver for each test, and the few calls that every test makes. What holds for one driver holds for the other."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from composerd.driver import Driver
from composerd.models import (
    Artifact,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Claimed,
    Enqueued,
    Finish,
    Job,
    JobState,
    Key,
    NewJob,
    Outcome,
    PayloadKind,
    PayloadRef,
    Touch,
)
from composerd_fs import FsDriver, MemoryDriver
from composerd_postgres import PostgresDriver

from ..conftest import POSTGRES, PostgresServers

LEASE = 60.0
PLENTY = 2**40
ANY = Key("", "build", None)


class Store:
    """A driver, and a test's words for it. Ids and tokens are counted, so that a failure can be repeated."""

    def __init__(self, driver: Driver, directory: Path) -> None:
        self.driver = driver
        self.directory = directory
        self.shifted = 0.0
        self._ids = 0

    def id(self) -> UUID:
        """A new id or token."""
        self._ids += 1
        return UUID(int=self._ids)

    def new(self, *dependencies: UUID, **fields: Any) -> NewJob:
        """A job that is to be submitted."""
        return NewJob(
            **{"id": self.id(), "type": "build", "args": b'{"n":1}', "dependencies": dependencies, **fields},
        )

    async def submit(self, *jobs: NewJob) -> Enqueued:
        """Store one submission."""
        (answer,) = (await self.driver.enqueue([jobs])).items
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def add(self, *dependencies: UUID, **fields: Any) -> UUID:
        """Store one job."""
        job = self.new(*dependencies, **fields)
        await self.submit(job)
        return job.id

    async def claim(
        self, *keys: Key, token: UUID | None = None, lease: float = LEASE, handover: float | None = None
    ) -> Claimed | None:
        """Ask for one job."""
        claim = Claim(token or self.id(), keys or (ANY,), lease, handover)
        (claimed,) = (await self.driver.claim([claim], PLENTY)).items
        return claimed

    async def take(self, job_id: UUID | None = None, **how: Any) -> UUID:
        """Claim the job that is next, which must be this one; the token."""
        claimed = await self.claim(**how)
        assert claimed is not None
        assert job_id is None or claimed.job_id == job_id
        return claimed.token

    async def finish(self, token: UUID, result: bytes = b"{}", *, failed: bool = False) -> Finish:
        """Report an outcome."""
        (answer,) = (await self.driver.finish([Outcome(token, result, failed)])).items
        return answer.verdict

    async def end(self, job_id: UUID, result: bytes = b"{}", *, failed: bool = False) -> None:
        """Claim the job that is next, which must be this one, and report its outcome."""
        assert await self.finish(await self.take(job_id), result, failed=failed) is Finish.ACCEPTED

    async def touch(self, token: UUID, partial: bytes | None = None, *, confirm: bool = True) -> AttemptState:
        """Give a sign of life."""
        (attempt,) = (await self.driver.touch([Touch(token, partial, confirm)])).items
        return attempt.state

    async def attach(self, token: UUID, name: str, place: str = "place") -> tuple[AttemptState, str | None]:
        """Attach a file."""
        artifact = Artifact(name, 3, "ab" * 32, place)
        (attached,) = (await self.driver.attach([Attachment(token, artifact)])).items
        return attached.attempt.state, attached.replaced

    async def release(self, token: UUID) -> Attempt:
        """Give a job back."""
        (attempt,) = (await self.driver.release([token])).items
        return attempt

    async def cancel(self, job_id: UUID) -> Job | Exception:
        """Cancel a job."""
        (answer,) = (await self.driver.cancel([job_id])).items
        return answer

    async def delete(self, job_id: UUID) -> Job | Exception | None:
        """Forget a job."""
        (answer,) = (await self.driver.delete([job_id])).items
        return answer

    async def pass_time(self, seconds: float) -> Sequence[UUID]:
        """Let time pass; the jobs that it concerned."""
        self.shifted += seconds
        await self.driver.shift_clock(seconds)
        return (await self.driver.advance(1000)).items

    async def get(self, job_id: UUID) -> Job:
        """A job that is there."""
        (job,) = await self.driver.get([job_id])
        assert job is not None
        return job

    async def state(self, job_id: UUID) -> JobState:
        """The state of a job that is there."""
        return (await self.get(job_id)).state

    async def args(self, job_id: UUID) -> bytes | None:
        """What the job was submitted with."""
        return (await self.driver.payload([PayloadRef(job_id, PayloadKind.ARGS)]))[0]

    async def result(self, job_id: UUID) -> bytes | None:
        """What the job ended with."""
        return (await self.driver.payload([PayloadRef(job_id, PayloadKind.RESULT)]))[0]

    async def artifacts(self, job_id: UUID) -> tuple[Artifact, ...]:
        """The artifacts of a job."""
        return (await self.driver.artifacts([job_id]))[0]

    async def reopen(self) -> None:
        """Close an fs driver and open its directory again, at the same time of its clock."""
        await self.driver.close()
        self.driver = await opened(self.directory, self.shifted)

    async def dump(self) -> list[Any]:
        """Everything."""
        return [job async for job in self.driver.dump()]


async def opened(directory: Path, shifted: float = 0.0) -> FsDriver:
    """An fs driver that has started, that much later than now."""
    driver = FsDriver(directory)
    await driver.shift_clock(shifted)
    try:
        await driver.start()
    except BaseException:
        await driver.close()
        raise
    return driver


@contextlib.asynccontextmanager
async def store_of(kind: str, directory: Path, servers: PostgresServers | None = None) -> AsyncIterator[Store]:
    """A started driver in an empty storage."""
    driver: Driver
    if kind == "fs":
        driver = await opened(directory)
    elif kind.startswith("postgres"):
        assert servers is not None
        driver = PostgresDriver.from_url(servers.get(kind).fresh())
        await driver.start()
    else:
        driver = MemoryDriver.from_url("memory:")
        await driver.start()
    store = Store(driver, directory)
    try:
        yield store
    finally:
        await store.driver.close()


@pytest.fixture(params=["fs", "memory", *POSTGRES])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_servers: PostgresServers
) -> AsyncIterator[Store]:
    """Each of the drivers, empty."""
    async with store_of(request.param, tmp_path / "storage", postgres_servers) as store:
        yield store


@pytest.fixture(params=["fs", "memory"])
async def orderly(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each of the drivers that carry out calls in the order in which they are made, empty."""
    async with store_of(request.param, tmp_path / "storage") as store:
        yield store


@pytest.fixture
async def fs(tmp_path: Path) -> AsyncIterator[Store]:
    """The fs driver, empty: it can be reopened."""
    async with store_of("fs", tmp_path / "storage") as store:
        yield store
