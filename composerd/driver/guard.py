"""The guard around any driver: it times calls, names the driver in errors, and raises nothing but `ComposerdError`."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence, Sized
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from uuid import UUID

from composerd.driver import listed, own_channels, several_states
from composerd.driver.contract import Driver, minor_version
from composerd.driver.outage import Outage
from composerd.driver.tokens import by_token
from composerd.driver.values import Batch, Damage, StorageCheck, StorageInfo, StoredJob, Usage
from composerd.errors import ComposerdError, DriverError, DriverTimeout
from composerd.free_space import DiskSpace
from composerd.models import (
    Artifact,
    Attached,
    Attachment,
    Attempt,
    Claim,
    Claimed,
    Enqueued,
    Finished,
    IdPage,
    Job,
    JobFilter,
    JobPage,
    NewJob,
    News,
    Outcome,
    PayloadRef,
    Touch,
    Worker,
    WorkerCursor,
    WorkerPage,
)

log = logging.getLogger(__name__)

SLOW_CALL = 1.0
"""A call that takes longer than this, in seconds, is logged.

Of slow calls of a method that overlap, the first that ends is logged.
"""

ANSWER_WITHIN = 60.0
"""Time in seconds after which a read that a driver has not answered fails, and after which nobody waits for a write."""

R = TypeVar("R")

Observer = Callable[[str, float, bool], None]
"""Called after each call of the driver with the method, its duration in seconds, and True if it raised."""


Call = Coroutine[Any, Any, R]
"""A call of the driver that has not been awaited yet."""


def unobserved(_method: str, _seconds: float, _raised: bool) -> None:
    """Do nothing."""


class Guard(Driver):
    """A driver as the rest of composerd sees it.

    Its methods return the coroutine of `_call` instead of being coroutines themselves: one layer less on each call.
    """

    contract = "1.5"
    name = "guard"

    def __init__(self, driver: Driver, observe: Observer = unobserved) -> None:
        self.driver = driver
        self.capabilities = driver.capabilities
        self.artifacts_directory = driver.artifacts_directory
        self.outage = Outage()
        self._observe = observe
        self._minor_version = minor_version(driver)
        self._slow_until: dict[str, float] = {}
        """For each method, the time at which its last call that was logged as slow ended."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError("a guard is made around a driver: composerd.driver.registry.open_driver")

    async def _call(
        self, method: str, call: Awaitable[R], items: Sized | None = None, *, prefix_allowed: bool = False
    ) -> R:
        """Await a call of the driver, and translate its exceptions.

        Args:
            method: The method's name, for errors and for the observer.
            call: The call.
            items: What the call was made for, if it has to return an answer for each.
            prefix_allowed: True if the call may answer the first items only, at least one.
        """
        error: DriverError
        outage = self.outage
        began = time.monotonic()
        raised = True
        try:
            if method in _LIMITED:
                async with asyncio.timeout(ANSWER_WITHIN):
                    answer = await call
            else:
                answer = await call
            if items is not None:
                count = len(answer.items if isinstance(answer, Batch) else cast(Sized, answer))
                if count != len(items) and not (prefix_allowed and 1 <= count <= len(items)):
                    raise DriverError(  # noqa: TRY301  # counted as a failure, like any other
                        f"{self.driver.name}: {method}: {count} answers to {len(items)} items", driver=self.driver.name
                    )
            raised = False
            if outage.attentive:
                outage.succeeded(method)
            return answer
        except ComposerdError as exc:
            outage.failed(method, exc)
            raise
        except TimeoutError as exc:
            error = DriverTimeout(f"{self.driver.name}: {method}: the storage took too long", driver=self.driver.name)
            outage.failed(method, error)
            raise error from exc
        except Exception as exc:
            error = DriverError(f"{self.driver.name}: {method}: {exc}", driver=self.driver.name)
            outage.failed(method, error)
            raise error from exc
        finally:
            ended = time.monotonic()
            took = ended - began
            self._observe(method, took, raised)
            if (
                took > SLOW_CALL
                and not outage.lasts
                and method not in _LONG_CALLS
                and began >= self._slow_until.get(method, began)
            ):
                self._slow_until[method] = ended
                log.warning("storage %s: %s took %.1f s", self.driver.name, method, took)

    def start(self, *, create: bool = True) -> Call[None]:
        return self._call("start", self.driver.start(create=create))

    def start_reading(self, *, alone: bool = False) -> Call[Sequence[str]]:
        return self._call("start_reading", self.driver.start_reading(alone=alone))

    def close(self) -> Call[None]:
        return self._call("close", self.driver.close())

    def migrate(self) -> Call[str | None]:
        return self._call("migrate", self.driver.migrate())

    def ping(self) -> Call[None]:
        return self._call("ping", self.driver.ping())

    async def free_space(self) -> DiskSpace | None:
        """Ask the driver. This does not tell whether the storage answers, so it neither begins nor ends an outage."""
        try:
            return await self.driver.free_space()
        except ComposerdError:
            raise
        except Exception as exc:
            raise DriverError(f"{self.driver.name}: free_space: {exc}", driver=self.driver.name) from exc

    def info(self) -> Call[StorageInfo]:
        return self._call("info", self.driver.info())

    def check(self) -> Call[StorageCheck]:
        return self._call("check", self.driver.check())

    def secret(self) -> Call[bytes]:
        return self._call("secret", self.driver.secret())

    def backup(self, directory: Path) -> Call[str]:
        return self._call("backup", self.driver.backup(directory))

    def shift_clock(self, seconds: float) -> Call[None]:
        return self._call("shift_clock", self.driver.shift_clock(seconds))

    def jump_clock(self, seconds: float) -> Call[None]:
        return self._call("jump_clock", self.driver.jump_clock(seconds))

    def confirm_clock(self) -> Call[None]:
        return self._call("confirm_clock", self.driver.confirm_clock())

    def enqueue(self, submissions: Sequence[Sequence[NewJob]]) -> Call[Batch[Enqueued | ComposerdError]]:
        driver = self.driver
        knows_channels = self._minor_version >= own_channels.SINCE
        call = driver.enqueue(submissions) if knows_channels else own_channels.enqueue(driver, submissions)
        return self._call("enqueue", call, submissions)

    def claim(self, requests: Sequence[Claim], max_bytes: int) -> Call[Batch[Claimed | None]]:
        return self._call("claim", self.driver.claim(requests, max_bytes), requests, prefix_allowed=True)

    def touch(self, touches: Sequence[Touch]) -> Call[Batch[Attempt]]:
        return self._call("touch", by_token(self.driver, self.driver.touch, touches), touches)

    def attach(self, attachments: Sequence[Attachment]) -> Call[Batch[Attached]]:
        return self._call("attach", by_token(self.driver, self.driver.attach, attachments), attachments)

    def finish(self, outcomes: Sequence[Outcome]) -> Call[Batch[Finished]]:
        driver = self.driver
        compares = driver.capabilities.compares_artifacts
        call = by_token(driver, driver.finish, outcomes) if compares else listed.finish(driver, outcomes)
        return self._call("finish", call, outcomes)

    def release(self, tokens: Sequence[UUID]) -> Call[Batch[Attempt]]:
        return self._call("release", by_token(self.driver, self.driver.release, tokens), tokens)

    def cancel(self, job_ids: Sequence[UUID]) -> Call[Batch[Job | ComposerdError]]:
        return self._call("cancel", self.driver.cancel(job_ids), job_ids)

    def delete(self, job_ids: Sequence[UUID]) -> Call[Batch[Job | None | ComposerdError]]:
        return self._call("delete", self.driver.delete(job_ids), job_ids)

    def advance(self, limit: int) -> Call[Batch[UUID]]:
        return self._call("advance", self.driver.advance(limit))

    def grace(self) -> Call[None]:
        return self._call("grace", self.driver.grace())

    def purge(self, limit: int) -> Call[Batch[UUID]]:
        return self._call("purge", self.driver.purge(limit))

    def get(self, job_ids: Sequence[UUID]) -> Call[Sequence[Job | None]]:
        return self._call("get", self.driver.get(job_ids), job_ids)

    def listed(self, job_ids: Sequence[UUID]) -> Call[Sequence[Job | None]]:
        return self._call("listed", self.driver.listed(job_ids), job_ids)

    def dependents(self, job_id: UUID, cursor: int | None, limit: int) -> Call[IdPage | None]:
        return self._call("dependents", self.driver.dependents(job_id, cursor, limit))

    def list(self, filter: JobFilter, cursor: int | None, limit: int) -> Call[JobPage]:
        driver = self.driver
        if filter.states and not several_states.known_to(driver):
            return self._call("list", several_states.page(driver, filter, cursor, limit))
        return self._call("list", driver.list(filter, cursor, limit))

    def looks_at_channel_only(self, filter: JobFilter) -> bool:
        """Return True if pages of `list` with this filter do not depend on the jobs of other channels (V13)."""
        return bool(filter.channel) and self._minor_version >= own_channels.SINCE

    def payload(self, refs: Sequence[PayloadRef]) -> Call[Sequence[bytes | None]]:
        return self._call("payload", self.driver.payload(refs), refs)

    def payloads_up_to(self, refs: Sequence[PayloadRef], limit: int) -> Call[Sequence[bytes | int | None]]:
        return self._call("payloads_up_to", self.driver.payloads_up_to(refs, limit), refs)

    def payload_part(self, ref: PayloadRef, start: int, stop: int) -> Call[bytes | None]:
        return self._call("payload_part", self.driver.payload_part(ref, start, stop))

    def artifacts(self, job_ids: Sequence[UUID]) -> Call[Sequence[tuple[Artifact, ...]]]:
        return self._call("artifacts", self.driver.artifacts(job_ids), job_ids)

    def usage(self, channels: Sequence[str]) -> Call[Sequence[Usage]]:
        return self._call("usage", self.driver.usage(channels), channels)

    def seen(self, workers: Sequence[Worker]) -> Call[None]:
        return self._call("seen", self.driver.seen(workers))

    def sign_off(self, workers: Sequence[Worker]) -> Call[None]:
        return self._call("sign_off", self.driver.sign_off(workers))

    def workers(self, within: float, ids: Sequence[UUID] | None = None) -> Call[Sequence[Worker]]:
        return self._call("workers", self.driver.workers(within, ids))

    def worker_page(
        self, within: float, after: WorkerCursor | None, limit: int, channel: str | None = None
    ) -> Call[WorkerPage]:
        if channel is None or self._minor_version < own_channels.SINCE:
            return self._call("worker_page", self.driver.worker_page(within, after, limit))
        return self._call("worker_page", self.driver.worker_page(within, after, limit, channel))

    def ahead(self, job_id: UUID, limit: int) -> Call[int]:
        return self._call("ahead", self.driver.ahead(job_id, limit))

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

    async def salvage(self) -> AsyncGenerator[StoredJob | Damage, None]:
        try:
            async with aclosing(self.driver.salvage()) as found:
                async for one in found:
                    yield one
        except ComposerdError:
            raise
        except Exception as exc:
            raise DriverError(f"{self.driver.name}: salvage: {exc}", driver=self.driver.name) from exc

    def load(self, jobs: Sequence[StoredJob]) -> Call[None]:
        return self._call("load", self.driver.load(jobs))


_LIMITED = frozenset(
    [
        "get",
        "listed",
        "dependents",
        "list",
        "payload",
        "payloads_up_to",
        "payload_part",
        "artifacts",
        "workers",
        "worker_page",
        "ahead",
        "seen",
        "sign_off",
        "ping",
        "info",
        "secret",
        "usage",
    ]
)
"""Methods whose calls may be canceled when they take too long."""

_LONG_CALLS = frozenset({"start", "start_reading", "close", "migrate", "check", "backup", "load"})
