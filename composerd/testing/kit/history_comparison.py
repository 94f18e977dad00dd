"""The comparison of everything that a driver has stored with the model, as random histories make it after each step."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import TypeVar
from uuid import UUID

import msgspec

from composerd.models import Job, JobFilter, Key, PayloadKind, PayloadRef
from composerd.testing.kit.instance import Instance
from composerd.testing.kit.model import Model, ModelJob
from composerd.testing.kit.results import dependency_failed
from composerd.testing.kit.steps import KEYS

T = TypeVar("T")

SLACK = 500.0
"""Shorter than a unit, and longer than any history takes, in seconds."""


CHANNELS = sorted({key.channel for key in KEYS} | {"unused"})
"""The channels whose use of the storage is compared."""


class Comparison:
    """A driver and the model, and what a history knows of both."""

    instance: Instance
    runner: asyncio.Runner
    model: Model
    ids: list[UUID]
    """The ids of all jobs that were submitted."""
    base: float | None
    """The driver's time when the model's was 0, in seconds since the epoch; None until it is known."""
    partials_known: bool
    """True if the progress of running attempts is known; a restart may lose it."""

    def do(self, awaitable: Awaitable[T]) -> T:
        """Run a coroutine and return its result."""

        async def run() -> T:
            async with asyncio.timeout(60):
                return await awaitable

        return self.runner.run(run())

    async def compare_everything(self) -> None:
        """Compare what is stored with the model."""
        driver, jobs = self.instance.driver, list(self.model.jobs.values())
        ids = [job.new.id for job in jobs]
        gone = [job_id for job_id in self.ids[-8:] if job_id not in self.model.jobs]
        found = await driver.get([*ids, *gone])
        payloads = await driver.payload([PayloadRef(one, kind) for one in ids for kind in PayloadKind])
        artifacts = await driver.artifacts([*ids, *gone])
        for n, job in enumerate(jobs):
            self.compare(job, found[n])
            self.compare_payloads(job, *payloads[2 * n : 2 * n + 2])
            attached = job.artifacts if job.running is None else job.running.artifacts
            assert list(artifacts[n]) == [attached[name] for name in sorted(attached)]
        assert list(found[len(ids) :]) == [None] * len(gone)
        assert list(artifacts[len(ids) :]) == [()] * len(gone)
        assert await self.listing(JobFilter(), 1000) == ids[::-1]
        counts = {state: n for state, n in (await driver.info()).jobs.items() if n}
        assert counts == Counter(job.state for job in jobs)
        if driver.capabilities.counts_usage:
            used = await driver.usage(CHANNELS)
            assert [msgspec.structs.astuple(one) for one in used] == [self.model.usage(one) for one in CHANNELS]

    def compare(self, job: ModelJob, found: Job | None) -> None:
        """Compare a job as `get` returns it."""
        assert found is not None, f"the job {job.new.id} is gone"
        new = job.new
        assert (found.id, found.state) == (new.id, job.state)
        assert (found.type, found.arch, found.channel, found.priority) == (*_kind(new.key), new.priority)
        assert (found.retries, found.attempt, found.worker_id) == (job.retries, job.attempt, job.worker_id)
        assert (found.dependencies, found.idempotency_key) == (new.dependencies, new.idempotency_key)
        assert found.dependents == tuple(one.new.id for one in self.model.dependents(job))
        assert found.partial in ({job.partial} if self.partials_known else {job.partial, None})
        assert (found.finished_at is not None, found.started_at is not None) == (job.state.ended, job.attempt > 0)
        if self.base is None:
            self.base = found.queued_at.timestamp() - self.model.now
        for moment, expected in [(found.not_before, job.not_before), (found.finished_at, job.finished_at)]:
            assert (moment is None) == (expected is None)
            if moment is not None and expected is not None:
                assert abs(moment.timestamp() - self.base - expected) < SLACK
        if job.expires_at is not None:
            assert found.expires_at is not None
            assert abs(found.expires_at.timestamp() - self.base - job.expires_at) < SLACK

    def compare_payloads(self, job: ModelJob, args: bytes | None, result: bytes | None) -> None:
        """Compare a job's args and result.

        The result of a job that failed with its dependencies names those that had failed when it was written. A driver
        may write it later than the model, so any of them may be named; from then on the result must not change.
        """
        assert args == job.new.args
        if job.failed_with:
            assert result is not None
            named = msgspec.json.decode(result)["job_error"]["details"]
            # A call that failed several dependencies may propagate their ends after all of them.
            failed = {*job.failed_with, *self.model.failed_dependencies(job)}
            known = [one for one in dict.fromkeys(job.new.dependencies) if one in failed and str(one) in named]
            assert known
            assert result == dependency_failed(known)
            job.result, job.failed_with = result, None
        assert result == job.result

    async def listing(self, filter: JobFilter, limit: int) -> list[UUID]:
        """Return the ids on all pages of a listing."""
        found: list[UUID] = []
        cursor: int | None = None
        while True:
            page = await self.instance.driver.list(filter, cursor, limit)
            assert len(page.jobs) <= limit
            found += [job.id for job in page.jobs]
            cursor = page.next
            if cursor is None:
                return found


def _kind(key: Key) -> tuple[str, str | None, str]:
    return key.type, key.arch, key.channel
