"""Outages of the database: how long a call may take, and which error says that nothing was changed."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psycopg2
import pytest

from composerd.errors import DriverTimeout, OutcomeUnknown, Unavailable
from composerd.models import Artifact, Attachment, AttemptState, Claim, JobFilter, JobState, Outcome, Touch
from composerd.testing.kit.instance import BUILD, OTHER, PLENTY, Instance
from composerd_postgres import PostgresDriver, driver

from ...throwaway import Throwaway
from ..conftest import Open

FILE = Artifact("log.txt", 1, "0" * 64, "here")


class Changes:
    """A storage with a job for each way of changing one."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.new = instance.new()

    async def prepare(self) -> None:
        """Store the jobs."""
        instance = self.instance
        self.ended = await instance.add()
        await instance.cancel(self.ended)
        self.waiting = await instance.add(type="other")
        self.jobs = [await instance.add() for _ in range(3)]
        self.tokens = [await instance.take(job_id) for job_id in self.jobs]

    def calls(self) -> list[Callable[[], Awaitable[object]]]:
        """Return the calls that change something. Each may be repeated."""
        driver = self.instance.driver
        return [
            lambda: driver.enqueue([[self.new]]),
            lambda: driver.finish([Outcome(self.tokens[0], b"1")]),
            lambda: driver.release([self.tokens[1]]),
            lambda: driver.attach([Attachment(self.tokens[2], FILE)]),
            lambda: driver.cancel([self.waiting]),
            lambda: driver.delete([self.ended]),
        ]

    async def made(self) -> list[bool]:
        """Return for each call whether what it changes was changed."""
        instance = self.instance
        new, ended = await instance.driver.get([self.new.id, self.ended])
        return [
            new is not None,
            await instance.touch(self.tokens[0]) is AttemptState.FINISHED,
            await instance.touch(self.tokens[1]) is AttemptState.SUPERSEDED,
            await instance.artifacts(self.jobs[2]) == (FILE,),
            await instance.state(self.waiting) is JobState.CANCELED,
            ended is None,
        ]


async def _timed(call: Awaitable[object]) -> tuple[float, BaseException | object]:
    """Return how long a call took, and its answer or its error."""
    began = time.monotonic()
    (answer,) = await asyncio.gather(call, return_exceptions=True)
    return time.monotonic() - began, answer


async def test_a_commit_without_an_answer(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A change whose COMMIT is not answered in time has an unknown outcome, and the database has made it."""
    instance = await open_instance(time_limit="300ms")
    changes = Changes(instance)
    await changes.prepare()
    with newest_postgres.commits_that_hang():
        answers = await asyncio.gather(*[_timed(call()) for call in changes.calls()])
    assert [type(answer) for _, answer in answers] == [OutcomeUnknown] * 6
    assert max(took for took, _ in answers) < 1.0
    async with asyncio.timeout(10):
        while await changes.made() != [True] * 6:  # noqa: ASYNC110  # the database goes on with what was sent
            await asyncio.sleep(0.01)
    await asyncio.gather(*[call() for call in changes.calls()])


async def test_nothing_was_changed(open_instance: Open, newest_postgres: Throwaway) -> None:
    """A change that waits for a lock until its time is over was not made, and its error says so."""
    instance = await open_instance(time_limit="300ms")
    changes = Changes(instance)
    await changes.prepare()
    schema = instance.driver.options.schema  # type: ignore[attr-defined]
    blocker = psycopg2.connect(host=str(newest_postgres.directory), user="tests", dbname="postgres")
    with blocker.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {schema}.jobs, {schema}.attempts IN ACCESS EXCLUSIVE MODE")
        answers = await asyncio.gather(*[_timed(call()) for call in changes.calls()])
    blocker.close()
    assert [type(answer) for _, answer in answers] == [Unavailable] * 6
    assert max(took for took, _ in answers) < 1.0
    assert await changes.made() == [False] * 6


async def test_a_call_has_one_time_limit(open_instance: Open, newest_postgres: Throwaway) -> None:
    """The time limit covers a call as a whole: the wait for a connection, and each of its statements."""
    instance = await open_instance(connections="1", time_limit="400ms")
    job_id = await instance.add()
    token = await instance.take(job_id)
    schema = instance.driver.options.schema  # type: ignore[attr-defined]
    touch, claim = [Touch(token)], [Claim(instance.id(), (BUILD, OTHER), 60.0)]
    blocker = psycopg2.connect(host=str(newest_postgres.directory), user="tests", dbname="postgres")
    busy = "SELECT FROM pg_stat_activity WHERE application_name = 'composerd' AND state = 'active'"
    for call in (
        lambda: instance.driver.touch(touch),
        lambda: instance.driver.claim(claim, PLENTY),
        lambda: instance.driver.get([job_id]),
        lambda: instance.driver.list(JobFilter(), None, 10),
        lambda: instance.driver.cancel([job_id]),
    ):
        with blocker.cursor() as cursor:
            while newest_postgres.sql(busy):  # noqa: ASYNC110  # the statement of the call before may still run
                await asyncio.sleep(0.01)
            cursor.execute(f"LOCK TABLE {schema}.jobs, {schema}.leases IN ACCESS EXCLUSIVE MODE")
            lent = asyncio.Event()

            async def hold(lent: asyncio.Event = lent) -> None:
                async with instance.driver._session.connections.one():  # type: ignore[attr-defined]
                    lent.set()
                    await asyncio.sleep(0.3)

            holding = asyncio.create_task(hold())
            await lent.wait()
            took, answer = await _timed(call())
            await holding
        blocker.rollback()
        assert isinstance(answer, Unavailable)
        assert 0.35 < took < 0.65, "and not the wait for a connection, and then a statement's time limit"
    blocker.close()


async def test_ping_learns_that_commits_hang(
    open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a commit without an answer, ping fails until a commit is answered, with one probe however often asked."""
    monkeypatch.setattr(driver, "PING_LIMIT", 0.1)
    instance = await open_instance(time_limit="300ms")
    storage = instance.driver
    assert isinstance(storage, PostgresDriver)
    with newest_postgres.commits_that_hang():
        with pytest.raises(OutcomeUnknown):
            await instance.add()
        for _ in range(3):
            with pytest.raises(DriverTimeout):
                await storage.ping()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%composerd%'"
        assert newest_postgres.sql(waiting) == [(1,)]
    async with asyncio.timeout(10):
        while True:
            try:
                return await storage.ping()
            except DriverTimeout:
                await asyncio.sleep(0.01)


async def test_ping_learns_from_heartbeats_that_commits_hang(
    open_instance: Open, newest_postgres: Throwaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ping fails after a heartbeat without an answer too: there may be no other change."""
    monkeypatch.setattr(driver, "PING_LIMIT", 0.1)
    instance = await open_instance(time_limit="300ms")
    token = await instance.take(await instance.add())
    with newest_postgres.commits_that_hang():
        with pytest.raises(DriverTimeout):
            await instance.touch(token)
        with pytest.raises(DriverTimeout):
            await instance.driver.ping()
