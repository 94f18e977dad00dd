"""The quota of running jobs: it holds jobs back, whatever workers do, and lets them go as soon as others have ended."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID, uuid4

import pytest

from composerd.driver.guard import Guard
from composerd.errors import ComposerdError, Unavailable
from composerd.ids import new_id
from composerd.models import Claimed, JobFilter, JobState, NewJob, Outcome
from composerd.queue import JobQueue, Lookup, QueueOptions, explain, keys_for, running_quota
from composerd.quotas import Quota, Quotas
from composerd_fs import MemoryDriver

from ..quotas.fixed import Fixed
from .conftest import LONG, turns

OPTIONS = QueueOptions(
    heartbeat_timeout=120.0, handover_timeout=10.0, sweep_interval=3600.0, worker_timeout=3600.0, max_waits=10_000
)


class Usage:
    """Reads what channels have from listings, and fails if the test says so."""

    def __init__(self, driver: MemoryDriver) -> None:
        self._driver = driver
        self.error: ComposerdError | None = None
        self.reads = 0

    async def __call__(self, channels: Sequence[str]) -> Sequence[Mapping[Quota, int]]:
        """Return what the channels have."""
        self.reads += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return [await self._of(channel) for channel in channels]

    async def _of(self, channel: str) -> Mapping[Quota, int]:
        page = await self._driver.list(JobFilter(channel=channel), None, 10_000)
        states = Counter(job.state for job in page.jobs)
        return {
            Quota.WAITING_JOBS: states[JobState.WAITING] + states[JobState.READY],
            Quota.RUNNING_JOBS: states[JobState.RUNNING],
        }


class Place:
    """A queue with quotas, and the jobs of its tenants."""

    def __init__(self, queue: JobQueue, driver: MemoryDriver, usage: Usage) -> None:
        self.queue = queue
        self.driver = driver
        self.usage = usage

    async def submit(self, count: int, channel: str = "org-a", type: str = "build") -> list[UUID]:
        """Submit jobs, and return their ids."""
        ids = [new_id() for _ in range(count)]
        await self.queue.submit([NewJob(id=one, type=type, channel=channel) for one in ids])
        return ids

    async def ask(
        self,
        wait: float | None = LONG,
        channel: str = "org-a",
        types: Sequence[str] = ("build",),
        request_id: UUID | None = None,
    ) -> Claimed | None:
        """Request a job."""
        keys = keys_for(channel, types, "x86_64")
        return await self.queue.request(keys, confirm=False, wait=wait, request_id=request_id)

    async def take(self, channel: str = "org-a") -> Claimed:
        """Request a job that there is."""
        claimed = await self.ask(channel=channel)
        assert claimed is not None
        return claimed

    async def fill(self, count: int) -> Claimed:
        """Submit jobs, and take as many as may run; return the first."""
        await self.submit(count)
        first = await self.take()
        await self.take()
        return first

    async def running(self, channel: str = "org-a") -> int:
        """Return how many jobs run."""
        return len((await self.driver.list(JobFilter(channel=channel, state=JobState.RUNNING), None, 10_000)).jobs)


@asynccontextmanager
async def placed(text: str) -> AsyncIterator[Place]:
    """Run a queue with these quotas."""
    driver = MemoryDriver()
    await driver.start()
    usage = Usage(driver)
    queue = JobQueue(Guard(driver), OPTIONS, Quotas(Fixed(text), usage, shared=False))
    async with queue.running():
        yield Place(queue, driver, usage)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Run a queue in which a tenant may run two jobs."""
    async with placed("[default]\nrunning_jobs = 2\n[no-tenant]\nrunning_jobs = 'unlimited'") as place:
        yield place


async def test_jobs_are_held_back(place: Place) -> None:
    """Beyond the quota a request waits on, and gets a job as soon as another one has ended."""
    await place.submit(4)
    first, second = await place.take(), await place.take()
    third = asyncio.create_task(place.take())
    await asyncio.sleep(0.1)
    assert not third.done()
    assert await place.running() == 2
    await place.queue.finish(first.token, b"1", failed=False)
    async with asyncio.timeout(0.5):  # well before the periodic look
        await third
    fourth = asyncio.create_task(place.take())
    await place.queue.release(second.token)
    async with asyncio.timeout(0.5):
        await fourth


async def test_request_without_patience(place: Place) -> None:
    """A request that does not wait gets a job if there is room, also if nothing is known of its tenant yet."""
    await place.submit(3)
    async with asyncio.timeout(0.5):
        assert await place.ask(wait=0)
        assert await place.ask(wait=0)
        assert await place.ask(wait=0) is None
        assert await place.ask(wait=0) is None
    assert await place.running() == 2


async def test_requests_that_come_together(place: Place) -> None:
    """Of many requests that come at once, only as many get a job as there is room for."""
    await place.submit(20)
    answers = await asyncio.gather(*(place.ask(wait=0.2) for _ in range(20)))
    assert sum(one is not None for one in answers) == 2


async def test_wait_that_ends_without_room(place: Place) -> None:
    """A request that is held back is answered at the end of its wait."""
    await place.fill(3)
    async with asyncio.timeout(1):
        assert await place.ask(wait=0.05) is None


async def test_other_tenants_go_on(place: Place) -> None:
    """A tenant that has used its quota up holds back nobody else, and costs no reading for others."""
    await place.submit(3)
    for channel in ("org-b", ""):
        await place.submit(3, channel)
    await place.take()
    await place.take()
    held = [asyncio.create_task(place.ask()) for _ in range(50)]
    await turns()
    async with asyncio.timeout(0.5):
        for channel in ("org-b", "", "org-b", "", ""):
            await place.take(channel)
    assert await place.running() == 2
    for one in held:
        one.cancel()


async def test_repeated_request_gets_its_job(place: Place) -> None:
    """A request that is sent again gets the job that it has already, although the quota is used up."""
    await place.submit(3)
    name = uuid4()
    first = await place.ask(request_id=name)
    await place.take()
    async with asyncio.timeout(0.5):
        again = await place.ask(request_id=name)
        assert first is not None
        assert again is not None
        assert again.job_id == first.job_id
        assert await place.ask(wait=0.01, request_id=uuid4()) is None
    assert await place.running() == 2


async def test_named_request_is_held_back(place: Place) -> None:
    """A new request with an id waits until there is room, as any other."""
    first = await place.fill(3)
    waiting = asyncio.create_task(place.ask(request_id=uuid4()))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await place.queue.finish(first.token, b"1", failed=False)
    async with asyncio.timeout(0.5):
        assert await waiting is not None


async def test_named_request_forgets_nothing(place: Place) -> None:
    """A new request with an id, for which no claim is made, does not make others forget the jobs that are ready."""
    first = await place.fill(3)
    waiting = asyncio.create_task(place.ask())
    await asyncio.sleep(0.05)
    assert await place.ask(wait=0.05, request_id=uuid4()) is None
    await place.queue.finish(first.token, b"1", failed=False)
    async with asyncio.timeout(0.5):
        assert await waiting is not None


async def test_no_type_is_forgotten(place: Place) -> None:
    """With room again, the waiter that has a job gets it, whichever types those before it wait for."""
    first = await place.fill(2)
    others = [asyncio.create_task(place.ask(types=[f"other-{number}"])) for number in range(300)]
    late = asyncio.create_task(place.ask(types=["late"]))
    await turns()
    await place.submit(1, type="late")
    await asyncio.sleep(0.05)
    assert not late.done()
    await place.queue.finish(first.token, b"1", failed=False)
    async with asyncio.timeout(0.9):
        assert await late is not None
    for one in others:
        one.cancel()


async def test_lost_news_costs_a_second(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nobody says that a job has ended, its place is found at the next look, which is after about a second."""
    assert running_quota.LOOK_EVERY <= 1
    monkeypatch.setattr(running_quota, "LOOK_EVERY", 0.1)
    first = await place.fill(3)
    waiting = asyncio.create_task(place.take())
    await asyncio.sleep(0.05)
    await place.driver.finish([Outcome(first.token, b"1")])
    async with asyncio.timeout(3):
        await waiting


async def test_storage_that_does_not_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody knows how many jobs run, requests wait, and are answered at the end of their wait."""
    monkeypatch.setattr(running_quota, "LOOK_EVERY", 0.1)
    await place.submit(1)
    place.usage.error = Unavailable("away")
    waiting = asyncio.create_task(place.take())
    async with asyncio.timeout(3):
        assert await place.ask(wait=0.01) is None
    assert not waiting.done()
    place.usage.error = None
    async with asyncio.timeout(3):
        await waiting


async def test_draining(place: Place) -> None:
    """A server that stops answers the requests that are held back."""
    await place.fill(3)
    waiting = [asyncio.create_task(place.ask()) for _ in range(3)]
    await turns()
    place.queue.drain()
    async with asyncio.timeout(0.5):
        assert await asyncio.gather(*waiting) == [None, None, None]


async def test_reason(place: Place) -> None:
    """`why` says that the quota of running jobs is used up, and not a word of it while there is room."""
    *_, last = await place.submit(3)
    await place.take()
    assert "quota" not in (await explain(place.queue, Lookup(last, None))).reason
    await place.take()
    reason = (await explain(place.queue, Lookup(last, None))).reason
    assert reason.startswith("The quota of running jobs is used up: 2 of 2 run. ")


@pytest.mark.parametrize("seed", range(4))
async def test_bound_in_every_order(seed: int) -> None:
    """However workers and submitters come, leave and die, no more jobs run than the quota says, and all jobs end."""
    chance = random.Random(seed)
    limit = chance.choice([1, 2, 5])
    async with placed(f"[default]\nrunning_jobs = {limit}") as place:
        channels = ["org-a", "org-b"]
        total = 30
        ended: set[UUID] = set()
        most: Counter[str] = Counter()

        async def submit(channel: str) -> None:
            for _ in range(total // 3):
                await place.submit(3, channel, chance.choice(["build", "test"]))
                await asyncio.sleep(chance.choice([0, 0, 0.001]))

        async def work(channel: str) -> None:
            while len(ended) < total * len(channels):
                types = chance.choice([["build"], ["test"], ["build", "test"]])
                name = uuid4() if chance.random() < 0.3 else None
                request = asyncio.create_task(place.ask(chance.choice([0, 0.01, 0.1]), channel, types, name))
                if chance.random() < 0.1:
                    await asyncio.sleep(chance.choice([0, 0.001]))
                    request.cancel()
                with suppress(asyncio.CancelledError):
                    if (claimed := await request) is not None:
                        most[channel] = max(most[channel], await place.running(channel))
                        await asyncio.sleep(chance.choice([0, 0.001]))
                        if chance.random() < 0.2:
                            await place.queue.release(claimed.token)
                        else:
                            await place.queue.finish(claimed.token, b"1", failed=False)
                            ended.add(claimed.job_id)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for channel in channels:
                tasks.create_task(submit(channel))
                for _ in range(10):
                    tasks.create_task(work(channel))
        assert len(ended) == total * len(channels)
        assert most == dict.fromkeys(channels, limit)
        assert not place.queue._dispatcher._list.held_back
