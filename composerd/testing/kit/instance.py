"""The driver under test, with short methods for what the kit's tests do most. It contains no test."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from composerd.driver import Batch, Driver, StoredAttempt, StoredJob
from composerd.driver.tokens import hashed
from composerd.models import (
    Artifact,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Claimed,
    Enqueued,
    Job,
    JobState,
    Key,
    NewJob,
    News,
    OnDependencyFailure,
    Outcome,
    PayloadKind,
    PayloadRef,
    Touch,
    Verdict,
)

T = TypeVar("T")

LEASE = 600.0
"""The lease of an attempt, in seconds, unless a test chooses another."""

PLENTY = 2**40
"""A `max_bytes` that no test reaches."""

BUILD = Key("", "build", None)
"""The key of a job, unless a test chooses another."""

OTHER = Key("", "other", None)
"""A second key."""

STEPS = 10_000
"""Number of times in a row that `advance` may ask to be called again at once before a test fails."""


class Instance:
    """A driver under test, and shorthands for calling it.

    Ids and tokens are counted, so that a failing test can be repeated with the same ones. If a call leaves something to
    do at once (`due_in` is 0), the shorthand calls `advance` until it is done.
    """

    def __init__(self, driver: Driver, make_driver: Callable[[], Driver]) -> None:
        self.driver = driver
        self.make_driver = make_driver
        """Returns another unopened driver on the same storage."""
        self.shifted = 0.0
        self.jumped = 0.0
        self._ids = 0
        self._tokens: dict[UUID, UUID] = {}
        """The tokens that were claimed with, by their hashes."""
        self._others: list[Driver] = []

    async def advance_until_idle(self, news: News) -> News:
        """Call `advance` until nothing is left to do at once; return `news` with the news of these calls."""
        ready, ended, requeued = dict(news.ready), list(news.ended), list(news.requeued)
        unanswered = list(news.unanswered)
        due_in = news.due_in
        for _ in range(STEPS):
            if due_in != 0:
                break
            more = (await self.driver.advance(1000)).news
            for key, count in more.ready.items():
                ready[key] = ready.get(key, 0) + count
            ended += more.ended
            requeued += more.requeued
            unanswered += more.unanswered
            due_in = more.due_in
        else:
            raise AssertionError(f"`advance` asked to be called again at once {STEPS} times in a row")
        return News(ready, tuple(ended), tuple(requeued), due_in, unanswered=tuple(unanswered))

    def id(self) -> UUID:
        """Return a new id or token."""
        self._ids += 1
        return UUID(int=self._ids)

    def new(self, *dependencies: UUID, **fields: Any) -> NewJob:
        """Return a job to submit, with defaults for the fields that are not given."""
        return NewJob(
            **{"id": self.id(), "type": "build", "args": b'{"n":1}', "dependencies": dependencies, **fields},
        )

    async def submit(self, *jobs: NewJob) -> Enqueued:
        """Store one submission and return the answer; raise it if it is an error."""
        (answer,) = await self._all(await self.driver.enqueue([jobs]))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def add(self, *dependencies: UUID, **fields: Any) -> UUID:
        """Store one job and return its id."""
        job = self.new(*dependencies, **fields)
        await self.submit(job)
        return job.id

    async def claim(
        self, *keys: Key, token: UUID | None = None, lease: float = LEASE, handover: float | None = None
    ) -> Claimed | None:
        """Claim one job of the keys (by default `BUILD`); return None if there is none."""
        claim = Claim(token or self.id(), keys or (BUILD,), lease, handover)
        self._tokens[hashed(claim.token)] = claim.token
        (claimed,) = (await self.driver.claim([claim], PLENTY)).items
        return claimed

    async def take(self, job_id: UUID | None = None, keys: tuple[Key, ...] = (), **how: Any) -> UUID:
        """Claim the next job, which must be `job_id` if that is given, and return the token of the attempt."""
        claimed = await self.claim(*keys, **how)
        assert claimed is not None
        assert job_id is None or claimed.job_id == job_id
        return claimed.token

    async def take_confirmed(self, job_id: UUID | None = None, **how: Any) -> UUID:
        """Claim the next job as `take` does, and touch the attempt, as a worker does that has got the job."""
        token = await self.take(job_id, **how)
        assert await self.touch(token) is AttemptState.RUNNING
        return token

    def token_of(self, attempt: StoredAttempt) -> UUID:
        """Return the token of an attempt that was claimed here, of which the storage may keep the hash only."""
        return self._tokens.get(attempt.token, attempt.token)

    async def finish(self, token: UUID, result: bytes = b"{}", *, failed: bool = False) -> Verdict:
        """Report an outcome and return the verdict."""
        (answer,) = await self._all(await self.driver.finish([Outcome(token, result, failed)]))
        return answer.verdict

    async def end(self, job_id: UUID, result: bytes = b"{}", *, failed: bool = False) -> None:
        """Claim the next job, which must be this one, and report its outcome."""
        assert await self.finish(await self.take(job_id), result, failed=failed) is Verdict.ACCEPTED

    async def touch(self, token: UUID, partial: bytes | None = None, *, confirm: bool = True) -> AttemptState:
        """Touch an attempt and return its state."""
        (attempt,) = (await self.driver.touch([Touch(token, partial, confirm)])).items
        return attempt.state

    async def attach(self, token: UUID, name: str, location: str = "location") -> tuple[AttemptState, str | None]:
        """Attach a file of three bytes. Return the attempt's state and the location of the file that was replaced."""
        artifact = Artifact(name, 3, "ab" * 32, location)
        (attached,) = await self._all(await self.driver.attach([Attachment(token, artifact)]))
        return attached.attempt.state, attached.replaced

    async def release(self, token: UUID) -> Attempt:
        """Release an attempt and return it as it was before."""
        (attempt,) = await self._all(await self.driver.release([token]))
        return attempt

    async def cancel(self, job_id: UUID) -> Job | Exception:
        """Cancel a job and return it, or the error."""
        (answer,) = await self._all(await self.driver.cancel([job_id]))
        return answer

    async def delete(self, job_id: UUID) -> Job | Exception | None:
        """Delete a job and return it as it was, the error, or None if it does not exist."""
        (answer,) = await self._all(await self.driver.delete([job_id]))
        return answer

    async def pass_time(self, seconds: float) -> Sequence[UUID]:
        """Let time pass and call `advance`. Return the jobs that the first call concerned."""
        await self.shift(seconds)
        batch = await self.driver.advance(1000)
        await self.advance_until_idle(batch.news)
        return batch.items

    async def shift(self, seconds: float) -> None:
        """Let the storage's clock run ahead without calling `advance`."""
        self.shifted += seconds
        await self.driver.shift_clock(seconds)

    async def jump(self, seconds: float) -> None:
        """Set the storage's clock forward, or back, without calling `advance`."""
        self.jumped += seconds
        await self.driver.jump_clock(seconds)

    async def freeze(self, seconds: float) -> None:
        """Let time pass in which this server does nothing, as when it is stopped and goes on later."""
        await self.shift(seconds)
        await self.driver.grace()

    async def get(self, job_id: UUID) -> Job:
        """Return a job that is known to exist."""
        (job,) = await self.driver.get([job_id])
        assert job is not None
        return job

    async def state(self, job_id: UUID) -> JobState:
        """Return the state of a job that is known to exist."""
        return (await self.get(job_id)).state

    async def args(self, job_id: UUID) -> bytes | None:
        """Return the args of a job."""
        return (await self.driver.payload([PayloadRef(job_id, PayloadKind.ARGS)]))[0]

    async def result(self, job_id: UUID) -> bytes | None:
        """Return the result of a job."""
        return (await self.driver.payload([PayloadRef(job_id, PayloadKind.RESULT)]))[0]

    async def artifacts(self, job_id: UUID) -> tuple[Artifact, ...]:
        """Return the artifacts of a job."""
        return (await self.driver.artifacts([job_id]))[0]

    async def dump(self) -> list[StoredJob]:
        """Return everything that is stored."""
        return [job async for job in self.driver.dump()]

    async def empty(self) -> None:
        """Cancel and delete every job. Ids and times are not reset."""
        jobs = await self.dump()
        await self._all(await self.driver.cancel([one.new.id for one in jobs if not one.job.state.ended]))
        await self._all(await self.driver.delete([one.new.id for one in reversed(jobs)]))

    async def reopen(self) -> None:
        """Close the driver and open its storage again, at the time at which it was closed."""
        await self.driver.close()
        self.driver = self.make_driver()
        await self.set_clock(self.driver)
        await self.driver.start()

    async def set_clock(self, driver: Driver) -> None:
        """Give an unopened driver the clock that this one has."""
        await driver.shift_clock(self.shifted)
        if self.jumped:
            await driver.jump_clock(self.jumped)

    async def another(self) -> Driver:
        """Return a second unopened driver on the same storage; it is closed at the end of the test."""
        driver = self.make_driver()
        self._others.append(driver)
        return driver

    async def another_server(self) -> "Instance":
        """Open the same storage, which must be shared, on a second server with the same clock."""
        other = Instance(await self.another(), self.make_driver)
        other.shifted, other.jumped = self.shifted, self.jumped
        await self.set_clock(other.driver)
        await other.driver.start()
        return other

    async def close(self) -> None:
        """Close all drivers that are open."""
        for driver in (*self._others, self.driver):
            await driver.close()

    async def _all(self, batch: Batch[T]) -> Sequence[T]:
        await self.advance_until_idle(batch.news)
        return batch.items


async def add_jobs_in_every_state(instance: Instance) -> None:
    """Store jobs in every state, with every kind of value that a job may have."""
    retried = await instance.add(retry_on_failure=1, retry_backoff=5000.0, args=None)
    token = await instance.take(retried)
    await instance.finish(token, b"1", failed=True)
    root = await instance.add(args=b"root", idempotency_key="k", fingerprint=b"f", retention=10000.0)
    await instance.add(root, priority=5, not_before=10000.0, max_retries=7, timeout=20000.0, arch="x86_64")
    await instance.add(channel="org", not_before=10000.0)
    token = await instance.take(root)
    await instance.attach(token, "b")
    await instance.attach(token, "a", "elsewhere")
    await instance.finish(token, b"result")
    failed = await instance.add()
    await instance.end(failed, failed=True)
    await instance.add(failed, on_dependency_failure=OnDependencyFailure.FAIL)
    canceled = await instance.add()
    await instance.add(canceled)
    await instance.cancel(canceled)
    released = await instance.add(priority=9, max_retries=100)
    for _ in range(18):
        await instance.release(await instance.take(released))
    await instance.take(released, handover=5000.0)
    running = await instance.add(priority=9)
    token = await instance.take(running, lease=10000.0)
    await instance.attach(token, "c")
    await instance.add()


def without_times(stored: StoredJob) -> StoredJob:
    """Return a stored job without its times."""
    moments = dict.fromkeys(("queued_at", "not_before", "started_at", "finished_at", "expires_at"))
    job = msgspec.structs.replace(stored.job, **moments)
    return msgspec.structs.replace(stored, job=job, new=msgspec.structs.replace(stored.new, not_before=None))


def due_within(due_in: float | None, seconds: float) -> bool:
    """Return True if `advance` is to be called before the given number of seconds has passed, but not at once."""
    return due_in is not None and 0 < due_in <= seconds
