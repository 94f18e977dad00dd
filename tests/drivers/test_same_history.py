"""A history has the same answers on fs and memory, with restarts, kills and refused flushes of fs in between."""

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch
from uuid import UUID

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from composerd.driver import StoredJob
from composerd.driver.tokens import hashed, is_hash
from composerd.errors import ComposerdError, StorageFull
from composerd.models import Artifact, Attachment, Claim, Key, NewJob, OnDependencyFailure, Outcome
from composerd.testing.kit.instance import PLENTY
from composerd_fs import MemoryDriver
from composerd_fs.journal.converting import kept_entry
from composerd_fs.journal.entries import KeptEntry
from composerd_fs.journal.writer import Journal
from composerd_fs.state.queries import counted_usage
from composerd_fs.state.table import Table

from .conftest import opened

CHANGE = st.one_of(
    st.tuples(
        st.just("enqueue"),
        st.lists(
            st.fixed_dictionaries(
                {
                    "dependencies": st.lists(st.integers(0, 12), max_size=3),
                    "priority": st.integers(-1, 1),
                    "arch": st.sampled_from([None, "x"]),
                    "key": st.sampled_from([None, None, None, "k", "l"]),
                    "fail": st.booleans(),
                    "retry": st.integers(0, 1),
                    "later": st.booleans(),
                }
            ),
            min_size=1,
            max_size=4,
        ),
    ),
    st.tuples(st.just("claim"), st.integers(1, 4)),
    st.tuples(st.just("finish"), st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=3)),
    st.tuples(st.just("attach"), st.integers(0, 12)),
    st.tuples(st.just("release"), st.integers(0, 12)),
    st.tuples(st.just("cancel"), st.integers(0, 12)),
    st.tuples(st.just("delete"), st.integers(0, 12)),
    st.tuples(st.just("time"), st.sampled_from([1.0, 11.0, 70.0])),
)
STEP = st.one_of(
    CHANGE,
    CHANGE,
    CHANGE,
    CHANGE,
    st.tuples(st.just("restart"), st.sampled_from(["clean", "kill"])),
    st.tuples(st.just("refused"), st.none()),
)


class History:
    """One driver, and what was done with it. Ids come from a counter, so that two histories have the same ids."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.jobs: list[UUID] = []
        self.tokens: list[UUID] = []
        self.count = 0
        self.shifted = 0.0

    def id(self) -> UUID:
        self.count += 1
        return UUID(int=self.count)

    def pick(self, ids: list[UUID], index: int) -> UUID:
        return ids[index % len(ids)] if ids else UUID(int=2**64)

    async def do(self, kind: str, what: Any) -> Any:
        """Do one step, and return its answer."""
        steps: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "enqueue": self._enqueue,
            "claim": self._claim,
            "finish": self._finish,
            "attach": self._attach,
            "release": self._release,
            "cancel": self._cancel,
            "delete": self._delete,
            "time": self._pass,
        }
        return await steps[kind](what)

    async def _claim(self, count: int) -> Any:
        tokens = [self.id() for _ in range(count)]
        self.tokens += tokens
        claims = [Claim(token, (Key("", "t", None), Key("", "t", "x")), 60.0) for token in tokens]
        return (await self.driver.claim(claims, PLENTY)).items

    async def _finish(self, which: list[tuple[int, bool]]) -> Any:
        outcomes = [Outcome(self.pick(self.tokens, n), b"%d" % n, failed=failed) for n, failed in which]
        return (await self.driver.finish(outcomes)).items

    async def _attach(self, which: int) -> Any:
        artifact = Artifact(f"a{which % 2}", which, "ab" * 32, str(which))
        answers = (await self.driver.attach([Attachment(self.pick(self.tokens, which), artifact)])).items
        return [replace(answer, attempt=replace(answer.attempt, confirmed=False)) for answer in answers]

    async def _release(self, which: int) -> Any:
        answers = (await self.driver.release([self.pick(self.tokens, which)])).items
        return [replace(answer, confirmed=False) for answer in answers]  # only `touch` says it

    async def _cancel(self, which: int) -> Any:
        return _known((await self.driver.cancel([self.pick(self.jobs, which)])).items)

    async def _delete(self, which: int) -> Any:
        return _known((await self.driver.delete([self.pick(self.jobs, which)])).items)

    async def _pass(self, seconds: float) -> Any:
        self.shifted += seconds
        await self.driver.shift_clock(seconds)
        done: list[UUID] = []
        while True:
            batch = await self.driver.advance(1000)
            done += batch.items
            if batch.news.due_in != 0:
                return sorted(done)

    async def _enqueue(self, jobs: list[dict[str, Any]]) -> Any:
        new: list[NewJob] = []
        for fields in jobs:
            known = [*self.jobs, *[job.id for job in new]]
            new.append(
                NewJob(
                    id=self.id(),
                    type="t",
                    arch=fields["arch"],
                    args=b"%d" % self.count,
                    dependencies=tuple(self.pick(known, n) for n in fields["dependencies"] if known),
                    priority=fields["priority"],
                    not_before=5.0 if fields["later"] else None,
                    retry_on_failure=fields["retry"],
                    on_dependency_failure=OnDependencyFailure.FAIL if fields["fail"] else OnDependencyFailure.RUN,
                    idempotency_key=fields["key"],
                    fingerprint=b"f" if fields["key"] else b"",
                )
            )
        (answer,) = (await self.driver.enqueue([new])).items
        if isinstance(answer, ComposerdError):
            return answer.code
        self.jobs += [job.id for job, created in zip(answer.jobs, answer.created, strict=True) if created]
        return [(job.id, job.state) for job in answer.jobs], answer.created

    async def is_weighed(self) -> bool:
        """Return True if the driver has counted the payload bytes in each segment correctly."""
        table = self.driver._table
        return bool(await self.driver._committer.between_flushes(lambda: weights(table) == table.jobs.live_bytes))

    async def is_counted(self) -> bool:
        """Return True if the driver has counted what the jobs of each channel use correctly."""
        table = self.driver._table
        differing = await self.driver._committer.between_flushes(
            lambda: counted_usage(table).differing(table.jobs.usage)
        )
        return not differing

    async def everything(self) -> list[Any]:
        """Return everything that is stored, without the times."""
        return [_timeless(job) async for job in self.driver.dump()]


def _known(items: Any) -> Any:
    return [item.code if isinstance(item, ComposerdError) else item and (item.id, item.state) for item in items]


def _timeless(stored: StoredJob) -> Any:
    """Return a job without its times, and with the hashes of its tokens, because some storages keep no tokens."""
    no_times = dict.fromkeys(("queued_at", "not_before", "started_at", "finished_at", "expires_at"))
    job = msgspec.structs.replace(stored.job, **no_times)
    attempts = [
        one if is_hash(one.token) else msgspec.structs.replace(one, token=hashed(one.token)) for one in stored.attempts
    ]
    new = msgspec.structs.replace(stored.new, not_before=None)
    return msgspec.structs.replace(stored, job=job, new=new, attempts=tuple(attempts))


def _no_room(*_args: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def _inline(work: Callable[..., Any], *args: Any) -> Any:
    return work(*args)


async def _remove(_journal: Journal, paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def everything(table: Table) -> list[KeptEntry]:
    """Return all jobs, archived ones too, as a checkpoint would keep them, but without what no query shows.

    That is the position that an ended job had in the queue, and those of its dependents that have been deleted.
    """
    by_sequence = table.jobs.by_sequence
    found = [table.jobs.at(sequence) for chunk in by_sequence.chunks() for sequence, _ in by_sequence.chunk(chunk)]
    entries: list[KeptEntry] = []
    for job in found:
        if job is not None:
            entry = kept_entry(job)
            dependents = [sequence for sequence in entry.dependents if by_sequence.get(sequence) is not None]
            position = 0 if job.state.ended else entry.position
            entries.append(msgspec.structs.replace(entry, position=position, dependents=dependents))
    return entries


def weights(table: Table) -> dict[int, int]:
    """Return the bytes of all payloads by segment."""
    live: dict[int, int] = {}
    for one in everything(table):
        for payload in (one.args, one.result):
            if isinstance(payload, tuple):
                segment, _, length = payload
                live[segment] = live.get(segment, 0) + length
    return live


@contextlib.contextmanager
def _busy_compactor() -> Iterator[Callable[[], None]]:
    """Take a checkpoint after every flush, one job at a time, with every payload in the journal and no threads.

    It goes on when the function that is given is called, so that much happens between two of its steps.
    """
    turns = asyncio.Semaphore(0)

    async def over(_turn: object) -> None:
        await turns.acquire()

    with (
        patch("composerd_fs.journal.compactor.Turn.over", over),
        patch("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 1),
        patch("composerd_fs.journal.compactor.JOBS_AT_ONCE", 1),
        patch("composerd_fs.state.archive._CHUNK", 1),
        patch("composerd_fs.journal.sparse.COPIED_AT_ONCE", 1),
        patch("composerd_fs.journal.writer.INLINE", 0),
        patch("asyncio.to_thread", _inline),
        patch("composerd_fs.journal.writer.Journal.remove", _remove),
    ):
        yield turns.release


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, min_size=5, max_size=40))
async def test_fs_and_memory_agree(steps: list[tuple[str, Any]]) -> None:
    """Answers and all that is stored are the same on fs and memory, whatever happens to the process and disk of fs.

    Ends are propagated one by one, so that it often happens in between.
    """
    with patch("composerd_fs.state.changes.PROPAGATION", 1):
        await _compare(steps)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, min_size=5, max_size=60))
async def test_they_agree_while_checkpoints_are_taken(steps: list[tuple[str, Any]]) -> None:
    """The drivers agree while checkpoints and compactions are under way all the time, and are killed in between."""
    with _busy_compactor() as turn:
        await _compare(steps, turn)


async def _compare(steps: list[tuple[str, Any]], turn: Callable[[], None] = lambda: None) -> None:
    with TemporaryDirectory() as scratch:
        directory = Path(scratch) / "0"
        fs, memory = History(await opened(directory)), History(MemoryDriver.from_url("memory:"))
        await memory.driver.start()
        generation = 0
        try:
            for kind, what in steps:
                turn()
                if kind == "restart":
                    if any(job.job.state == "running" for job in [one async for one in fs.driver.dump()]):
                        continue  # a start gives them a new lease, which memory has no way to do
                    if what == "kill":
                        generation += 1
                        unfinished = shutil.ignore_patterns("CLOCK.tmp")  # it may be renamed meanwhile
                        directory = Path(shutil.copytree(directory, Path(scratch) / str(generation), ignore=unfinished))
                    await fs.driver.close()
                    fs.driver = await opened(directory, fs.shifted)
                    for one in (fs, memory):
                        await one.driver.advance(1000)
                elif kind == "refused":
                    before = await fs.everything()
                    with patch("os.pwrite", _no_room):
                        try:
                            await fs.driver.enqueue([[NewJob(id=UUID(int=2**100), type="t")]])
                        except StorageFull:
                            pass
                        else:
                            raise AssertionError
                    assert await fs.everything() == before
                else:
                    assert await fs.do(kind, what) == await memory.do(kind, what)
                    assert await fs.everything() == await memory.everything()
                assert await fs.is_weighed()
                assert await fs.is_counted()
        finally:
            await fs.driver.close()
            await memory.driver.close()
