"""The queue and news: of its own writes, of other servers, and of what a crash or time left to do."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

import pytest

from composerd.driver import Batch
from composerd.driver.guard import Guard
from composerd.errors import (
    Unavailable,
)
from composerd.ids import new_id
from composerd.models import (
    Attempt,
    AttemptState,
    Job,
    JobState,
    NewJob,
    News,
    Touch,
)
from composerd.queue import JobQueue, Lookup, QueueOptions, remote_news, watching
from composerd_fs import MemoryDriver

from .conftest import KEYS, LONG, Shared, add, running, take, turns


async def test_listeners_are_told_of_ends(queue: JobQueue) -> None:
    """Listeners get news of attempts and jobs that ended, and no other news."""
    received: list[News] = []
    queue.listeners.append(received.append)
    job_id = await add(queue)
    first = await take(queue)
    assert received == []
    await queue.release(first.token)
    await queue.finish((await take(queue)).token, b"1", failed=False)
    assert [(news.requeued, news.ended) for news in received] == [((job_id,), ()), ((), (job_id,))]


@pytest.mark.parametrize(("count", "message"), [(1, "1 job"), (3, "3 jobs")])
async def test_what_a_crash_or_time_left_is_done(
    driver: MemoryDriver, caplog: pytest.LogCaptureFixture, count: int, message: str
) -> None:
    """Ended jobs whose retention is over are deleted by the sweep, which is logged in words that count right."""
    removed: asyncio.Queue[Sequence[UUID]] = asyncio.Queue()
    with caplog.at_level(logging.INFO):
        async with running(driver, sweep_interval=0.01) as queue:
            queue.on_removed = removed.put_nowait
            ids = [NewJob(id=new_id(), type="build", retention=60.0) for _ in range(count)]
            await queue.submit(ids)
            for one in ids:
                await queue.cancel(Lookup(one.id, None))
            await driver.shift_clock(61)
            assert set(await removed.get()) == {one.id for one in ids}
    assert caplog.messages == [f"removed {message} whose retention is over"]


async def test_a_start_does_what_a_crash_left(driver: MemoryDriver) -> None:
    """A queue lets the driver do at once what is due when it starts."""
    await driver.enqueue([[NewJob(id=new_id(), type="build", not_before=60.0)]])
    await driver.shift_clock(61)
    async with running(driver) as queue:
        assert (await take(queue)).attempt == 1


async def test_news_of_other_servers(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """News of another server wakes waits; a lost connection is opened again, which is logged if it fails."""
    monkeypatch.setattr(remote_news, "RETRY_AFTER", 0.01)
    driver = Shared()
    await driver.start()
    with caplog.at_level(logging.WARNING):
        async with running(driver) as queue:
            requesting = asyncio.create_task(queue.request(KEYS, confirm=False, wait=LONG))
            await turns()
            job = NewJob(id=new_id(), type="build")
            driver.others.put_nowait((await driver.enqueue([[job]])).news)
            claimed = await requesting
            assert claimed is not None
            waiting = asyncio.create_task(queue.wait_for_end(Lookup(job.id, None), LONG))
            requesting = asyncio.create_task(queue.request(KEYS, confirm=False, wait=LONG))
            await turns()
            await driver.cancel([job.id])
            await driver.enqueue([[NewJob(id=new_id(), type="build")]])
            driver.others.put_nowait(Unavailable("gone"))
            driver.others.put_nowait(Unavailable("still gone"))
            assert (await waiting).state is JobState.CANCELED
            assert await requesting is not None
            for _ in range(3):
                await driver.watches.get()
            driver.others.put_nowait(News(recheck=True))
            driver.others.put_nowait(Unavailable("gone again"))
            await driver.watches.get()
    lost = "lost the notification connection; news of other servers is delayed until it is back: "
    assert [record.getMessage() for record in caplog.records] == [f"{lost}still gone"]


async def test_lost_news_of_other_servers_delays_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared storage a wait reads the job again now and then, in case news was lost."""
    monkeypatch.setattr(watching, "RECHECK", 0.01)
    driver = Shared()
    await driver.start()
    async with running(driver) as queue:
        job_id = await add(queue)
        token = (await take(queue)).token
        waits = (
            asyncio.create_task(queue.wait_for_end(Lookup(job_id, None), LONG)),
            asyncio.create_task(queue.wait_while_running(token, LONG)),
        )
        await turns()
        await driver.cancel([job_id])
        assert (await waits[0]).state is JobState.CANCELED
        assert (await waits[1]).state is AttemptState.CANCELED


async def test_a_wait_on_a_storage_of_our_own_does_not_poll(
    queue: JobQueue, driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a storage that is not shared no news is lost, and a wait reads the job only when it begins and ends."""
    monkeypatch.setattr(watching, "RECHECK", 0.01)
    reads: list[str] = []
    listed, touch = driver.listed, driver.touch

    async def read(job_ids: Sequence[UUID]) -> Sequence[Job | None]:
        reads.append("listed")
        return await listed(job_ids)

    async def renew(touches: Sequence[Touch]) -> Batch[Attempt]:
        reads.append("touch")
        return await touch(touches)

    monkeypatch.setattr(driver, "listed", read)
    monkeypatch.setattr(queue._writes.touch, "_call", renew)
    job_id = await add(queue)
    token = (await take(queue)).token
    await queue.wait_for_end(Lookup(job_id, None), 0.1)
    await queue.wait_while_running(token, 0.1)
    assert reads == ["listed"] * 2 + ["touch"] * 3


async def test_lost_news_lets_the_driver_do_what_is_due(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """When news was lost, `advance` is called at once, because something may be due that nobody said."""
    named: list[float] = []
    monkeypatch.setattr(queue._reaper, "due_in", named.append)
    queue._on_news(News(recheck=True))
    queue._on_news(News(due_in=7.0))
    queue._on_news(News())
    assert named == [0, 7.0]


async def test_a_connection_for_news_that_never_opened(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If news of other servers cannot be received from the start, that is logged once too."""
    monkeypatch.setattr(remote_news, "RETRY_AFTER", 0.01)
    driver = Shared()
    await driver.start()
    driver.others.put_nowait(Unavailable("away"))
    driver.others.put_nowait(Unavailable("away"))
    with caplog.at_level(logging.WARNING):
        async with running(driver):
            for _ in range(3):
                await driver.watches.get()
    assert caplog.messages == [
        "lost the notification connection; news of other servers is delayed until it is back: away"
    ]


async def test_a_crash_in_the_background_is_logged(
    driver: MemoryDriver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that ends a background task is logged as critical, with the task's name."""

    async def crash() -> None:
        raise KeyError("bug")

    with caplog.at_level(logging.CRITICAL):
        queue = JobQueue(
            Guard(driver),
            QueueOptions(
                heartbeat_timeout=1, handover_timeout=1, sweep_interval=3600, worker_timeout=3600, max_waits=1
            ),
        )
        monkeypatch.setattr(queue.roster, "run", crash)
        async with queue.running():
            await turns()
    assert [record.getMessage() for record in caplog.records] == ["the task roster crashed; restart composerd"]
    assert caplog.records[0].exc_info is not None


async def test_the_end_waits_for_every_write(driver: MemoryDriver) -> None:
    """When a queue ends, every write that has begun is stored."""
    jobs = [NewJob(id=new_id(), type="build") for _ in range(20)]
    async with running(driver) as queue:
        futures = [asyncio.ensure_future(queue.submit([job])) for job in jobs]
        await asyncio.sleep(0)
    assert [job is not None for job in await driver.get([job.id for job in jobs])] == [True] * 20
    await asyncio.gather(*futures)
