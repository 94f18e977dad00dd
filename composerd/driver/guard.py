"""The guard around any driver: times its calls, names it in errors, and lets nothing but `ComposerdError` out. Adds no meaning."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Sized
from typing import Self, TypeVar
from uuid import UUID

from composerd.driver.contract import Batch, Driver, StorageCheck, StorageInfo, StoredJob
from composerd.errors import ComposerdError, DriverError, DriverTimeout
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    Job,
    JobFilter,
    JobPage,
    NewJob,
    News,
    Outcome,
    PayloadRef,
    Touch,
    Worker,
)

log = logging.getLogger(__name__)

SLOW_CALL = 1.0
"""A call that takes longer than this, in seconds, is said in the log."""

R = TypeVar("R")
T = TypeVar("T")

Observer = Callable[[str, float, bool], None]
"""Told of every call: the method, how long it took in seconds, and whether it raised."""


def unobserved(_method: str, _seconds: float, _raised: bool) -> None:
    """Observe nothing."""


class Guard(Driver):
    """A driver as the rest of composerd sees it."""

    contract = "1.0"
    name = "guard"

    def __init__(self, driver: Driver, observe: Observer = unobserved) -> None:
        self.driver = driver
        self.capabilities = driver.capabilities
        self.artifacts_directory = driver.artifacts_directory
        self._observe = observe

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError("a guard is made around a driver: composerd.driver.registry.open_driver")

    async def _call(self, method: str, call: Awaitable[R]) -> R:
        began = time.monotonic()
        raised = True
        try:
            answer = await call
            raised = False
            return answer
        except ComposerdError:
            raise
        except TimeoutError as exc:
            raise DriverTimeout(
                f"{self.driver.name}: {method}: the store took too long", driver=self.driver.name
            ) from exc
        except Exception as exc:
            raise DriverError(f"{self.driver.name}: {method}: {exc}", driver=self.driver.name) from exc
        finally:
            took = time.monotonic() - began
            self._observe(method, took, raised)
            if took > SLOW_CALL and method not in _LONG_CALLS:
                log.warning("storage %s: %s took %.1f s", self.driver.name, method, took)

    async def _batch(self, method: str, call: Awaitable[Batch[T]], asked: Sized) -> Batch[T]:
        answer = await self._call(method, call)
        self._check(method, answer.items, asked)
        return answer

    def _check(self, method: str, items: Sized, asked: Sized) -> None:
        if len(items) != len(asked):
            raise DriverError(
                f"{self.driver.name}: {method}: {len(items)} answers to {len(asked)} items", driver=self.driver.name
            )

    async def start(self, *, create: bool = True) -> None:
        await self._call("start", self.driver.start(create=create))

    async def close(self) -> None:
        await self._call("close", self.driver.close())

    async def migrate(self) -> None:
        await self._call("migrate", self.driver.migrate())

    async def ping(self) -> None:
        await self._call("ping", self.driver.ping())

    async def info(self) -> StorageInfo:
        return await self._call("info", self.driver.info())

    async def check(self) -> StorageCheck:
        return await self._call("check", self.driver.check())

    async def shift_clock(self, seconds: float) -> None:
        await self._call("shift_clock", self.driver.shift_clock(seconds))

    async def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Batch[Enqueued | ComposerdError]:
        return await self._batch("enqueue", self.driver.enqueue(submissions), submissions)

    async def claim(self, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
        answer = await self._call("claim", self.driver.claim(requests, max_bytes))
        if requests and not 1 <= len(answer.items) <= len(requests):
            self._check("claim", answer.items, requests)
        return answer

    async def touch(self, touches: Sequence[Touch]) -> Batch[Attempt]:
        return await self._batch("touch", self.driver.touch(touches), touches)

    async def attach(self, attachments: Sequence[Attachment]) -> Batch[Attached]:
        return await self._batch("attach", self.driver.attach(attachments), attachments)

    async def finish(self, outcomes: Sequence[Outcome]) -> Batch[Finished]:
        return await self._batch("finish", self.driver.finish(outcomes), outcomes)

    async def release(self, tokens: Sequence[UUID]) -> Batch[Attempt]:
        return await self._batch("release", self.driver.release(tokens), tokens)

    async def cancel(self, job_ids: Sequence[UUID]) -> Batch[Job | ComposerdError]:
        return await self._batch("cancel", self.driver.cancel(job_ids), job_ids)

    async def delete(self, job_ids: Sequence[UUID]) -> Batch[Job | None | ComposerdError]:
        return await self._batch("delete", self.driver.delete(job_ids), job_ids)

    async def advance(self, limit: int) -> Batch[UUID]:
        return await self._call("advance", self.driver.advance(limit))

    async def purge(self, limit: int) -> Batch[UUID]:
        return await self._call("purge", self.driver.purge(limit))

    async def get(self, job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        answer = await self._call("get", self.driver.get(job_ids))
        self._check("get", answer, job_ids)
        return answer

    async def list(self, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
        return await self._call("list", self.driver.list(filter, cursor, limit))

    async def payload(self, refs: Sequence[PayloadRef]) -> Sequence[bytes | None]:
        answer = await self._call("payload", self.driver.payload(refs))
        self._check("payload", answer, refs)
        return answer

    async def artifacts(self, job_ids: Sequence[UUID]) -> Sequence[tuple[Artifact, ...]]:
        answer = await self._call("artifacts", self.driver.artifacts(job_ids))
        self._check("artifacts", answer, job_ids)
        return answer

    async def seen(self, workers: Sequence[Worker]) -> None:
        await self._call("seen", self.driver.seen(workers))

    async def workers(self, within: float, ids: Sequence[UUID] | None = None) -> Sequence[Worker]:
        return await self._call("workers", self.driver.workers(within, ids))

    async def ahead(self, job_id: UUID, limit: int) -> int:
        return await self._call("ahead", self.driver.ahead(job_id, limit))

    async def watch(self) -> AsyncIterator[News]:
        try:
            async for news in self.driver.watch():
                yield news
        except ComposerdError:
            raise
        except Exception as exc:
            raise DriverError(f"{self.driver.name}: watch: {exc}", driver=self.driver.name) from exc

    async def dump(self) -> AsyncIterator[StoredJob]:
        try:
            async for job in self.driver.dump():
                yield job
        except ComposerdError:
            raise
        except Exception as exc:
            raise DriverError(f"{self.driver.name}: dump: {exc}", driver=self.driver.name) from exc

    async def load(self, jobs: Sequence[StoredJob]) -> None:
        await self._call("load", self.driver.load(jobs))


_LONG_CALLS = frozenset({"start", "close", "migrate", "check", "load"})
