"""Jobs and workers as those are shown them who see one channel only: nothing depends on other channels."""

from collections.abc import Callable
from itertools import product
from uuid import UUID

import pytest

from composerd.errors import JobNotFound, WorkerNotFound
from composerd.ids import new_id
from composerd.models import Claim, JobFilter, JobState, Worker, WorkerCursor
from composerd.queue import JobQueue, Lookup, keys_for
from composerd.queue import roster as roster_module
from composerd.queue.roster import Roster
from composerd.queue.worker_ids import NIL, given_worker_id, stored_worker_id
from composerd_fs import MemoryDriver

from .conftest import add

OWN, OTHER = "org-acme", "org-other"
LAYOUTS = ["", "o", "x", "ox", "xo", "xox", "oxo", "oo", "xxoo", "ooxx", "oxxo", "xoxoxoxxx", "ooooo", "x" * 7 + "o"]
"""Orders of jobs or workers: an `o` is one of the own channel, an `x` one of another."""

CALLS = {
    "get": lambda queue, job: queue.get(job),
    "listed": lambda queue, job: queue.listed(job),
    "dependents": lambda queue, job: queue.dependents(job, None, 10),
    "wait_for_end": lambda queue, job: queue.wait_for_end(job, 60.0),
    "cancel": lambda queue, job: queue.cancel(job),
    "delete": lambda queue, job: queue.delete(job),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_jobs_of_others_do_not_exist(queue: JobQueue, call: Callable) -> None:  # type: ignore[type-arg]
    """Each method that takes a job raises the same error for one of another channel as for one that never existed."""
    theirs = await add(queue, channel=OTHER)
    for job_id in (theirs, new_id()):
        with pytest.raises(JobNotFound) as raised:
            await call(queue, Lookup(job_id, OWN))
        assert raised.value.details == {"id": str(job_id)}
    assert (await queue.get(Lookup(theirs, OTHER))).state is JobState.READY
    assert (await queue.get(Lookup(theirs, None))).state is JobState.READY


@pytest.fixture(params=[1, 3, 1000])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver look at this many workers or jobs at once."""
    monkeypatch.setattr(roster_module, "READ_AT_ONCE", request.param)
    monkeypatch.setattr("composerd_fs.state.queries.SEARCHED", request.param)
    monkeypatch.setattr("composerd_fs.state.queries.SEARCHED_AT_ONCE", request.param)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("layout", "limit"), [*product(LAYOUTS, (1, 2, 3))])
async def test_pages_of_jobs(queue: JobQueue, layout: str, limit: int) -> None:
    """With a driver that looks at all jobs, every page but the last one is full, and the last one is not empty."""
    pages = await pages_of_jobs(queue, "", layout, limit)
    own = range(layout.count("o"))
    assert pages == ([[*own[at : at + limit]] for at in range(0, len(own), limit)] or [[]])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("layout", "limit"), [*product(LAYOUTS, (1, 2, 3))])
async def test_pages_of_a_channel_of_its_own(queue: JobQueue, layout: str, limit: int) -> None:
    """With a driver that looks at one channel only, the pages are as if there were no other channel."""
    pages = await pages_of_jobs(queue, OWN, layout, limit)
    assert [job for page in pages for job in page] == [*range(layout.count("o"))]
    assert pages == await pages_of_jobs(queue, "org-alone", layout.replace("x", ""), limit)


async def pages_of_jobs(queue: JobQueue, channel: str, layout: str, limit: int) -> list[list[int]]:
    """Submit jobs, and return the pages that those who see one channel get, as numbers of its jobs, the latest 0."""
    ids = [await add(queue, channel=channel if one == "o" else OTHER) for one in layout]
    own = [job_id for job_id, one in zip(ids, layout, strict=True) if one == "o"][::-1]
    wanted = JobFilter(channel=channel)

    async def turn() -> None:
        pass

    pages = []
    cursor = None
    while True:
        page = await queue.list(wanted, cursor, limit, alone=turn)
        pages.append([own.index(job.id) for job in page.jobs])
        cursor = await queue.following(wanted, page.next, turn)
        if cursor is None:
            return pages


async def test_a_long_search_in_one_channel_ends(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a filter that few jobs of a channel pass is short, after one call of the driver, and has a next one."""
    monkeypatch.setattr("composerd_fs.state.queries.SEARCHED", 2)
    monkeypatch.setattr("composerd_fs.state.queries.SEARCHED_AT_ONCE", 2)
    for _ in range(5):
        await add(queue, channel=OWN)

    async def turn() -> None:
        raise AssertionError("it goes on")

    wanted = JobFilter(channel=OWN, state=JobState.CANCELED)
    page = await queue.list(wanted, None, 10, alone=turn)
    assert page.jobs == ()
    assert page.next is not None
    assert await queue.following(wanted, page.next, turn) == page.next


async def test_a_long_search_lets_others_have_their_turn(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among many jobs of others, a listing goes on in turns: as many as the driver needs to look through them."""
    monkeypatch.setattr("composerd_fs.state.queries.SEARCHED", 2)
    monkeypatch.setattr("composerd_fs.state.queries.SEARCHED_AT_ONCE", 2)
    own = await add(queue, channel="")
    for _ in range(5):
        await add(queue, channel=OTHER)
    turns: list[None] = []

    async def turn() -> None:
        turns.append(None)

    page = await queue.list(JobFilter(channel=""), None, 10, alone=turn)
    assert ([job.id for job in page.jobs], page.next, len(turns)) == ([own], None, 2)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("layout", "limit"), [*product(LAYOUTS, (1, 2, 3))])
async def test_pages_of_workers(layout: str, limit: int) -> None:
    """Every page but the last one is full, and there is somebody in the last one, wherever the others' workers are."""
    driver = MemoryDriver()
    await driver.start()
    roster = Roster(driver, 3600.0)
    named = [(await roster.register("x86_64", OWN if one == "o" else OTHER), one) for one in layout]
    own = [worker_id for worker_id, one in named if one == "o"][::-1]
    pages = []
    cursor: WorkerCursor | None = None
    while True:
        page = await roster.page(cursor, limit, OWN)
        pages.append([worker.id for worker in page.workers])
        cursor = page.next
        if cursor is None:
            break
    assert pages == ([own[at : at + limit] for at in range(0, len(own), limit)] or [[]])
    assert [one.id for one in (await roster.page(None, 1000)).workers] == [worker_id for worker_id, _ in named[::-1]]


async def test_a_page_of_workers_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends when its workers are large, and each worker is in one page."""
    monkeypatch.setattr(roster_module, "READ_AT_ONCE", 2)
    monkeypatch.setattr(roster_module, "LARGEST_PAGE", 1)
    driver = MemoryDriver()
    await driver.start()
    roster = Roster(driver, 3600.0)
    own = [await roster.register("x86_64", OWN) for _ in range(5)][::-1]
    pages: list[list[UUID]] = []
    cursor: WorkerCursor | None = None
    while not pages or cursor is not None:
        page = await roster.page(cursor, 1000, OWN)
        pages.append([worker.id for worker in page.workers])
        cursor = page.next
    assert pages == [own[:2], own[2:4], own[4:]]


async def test_a_worker_id_in_two_channels() -> None:
    """Workers of two channels that use the same id are two workers, each with its own client, problem and end."""
    driver = MemoryDriver()
    await driver.start()
    roster = Roster(driver, 3600.0)
    worker_id = new_id()
    roster.describe(Worker(worker_id, "x86_64", ("build",), OWN, client="a"))
    roster.describe(Worker(worker_id, "aarch64", ("test",), OTHER, client="b", problem="disk"))
    (own,), (other,) = [(await roster.page(None, 10, channel)).workers for channel in (OWN, OTHER)]
    assert (own.id, own.arch, own.types, own.problem) == (worker_id, "x86_64", ("build",), None)
    assert (other.id, other.arch, other.types, other.problem) == (worker_id, "aarch64", ("test",), "disk")
    await roster.sign_off(worker_id, "b", OTHER)
    assert [len((await roster.page(None, 10, channel)).workers) for channel in (OWN, OTHER)] == [1, 0]


async def test_a_worker_belongs_to_its_identity() -> None:
    """The worker of another identity of the channel is as unknown as one that never existed, and stays as it is."""
    driver = MemoryDriver()
    await driver.start()
    roster = Roster(driver, 3600.0)
    worker_id = await roster.register("x86_64", OWN, "a")
    await roster.check(worker_id, "a", "disk", OWN, owned=True)
    for one in (worker_id, new_id()):
        with pytest.raises(WorkerNotFound):
            await roster.check(one, "b", "none", OWN, owned=True)
    await roster.sign_off(worker_id, "b", OWN)
    (worker,) = (await roster.page(None, 10, OWN)).workers
    assert (worker.id, worker.problem) == (worker_id, "disk")


async def test_a_worker_id_made_of_another_channel_s(queue: JobQueue) -> None:
    """A worker whose id is made of that of another channel's worker is listed without the jobs of that one."""
    theirs, token = new_id(), new_id()
    made = given_worker_id(stored_worker_id(theirs, OTHER), OWN)
    await add(queue, channel=OTHER)
    queue.roster.describe(Worker(made, "x86_64", ("build",), OWN, client="a"))
    await queue.roster.page(None, 10, OWN)
    claim = Claim(token, keys_for(OTHER, ["build"], "x86_64"), 60.0, None, stored_worker_id(theirs, OTHER))
    await queue.driver.claim([claim], 1)
    (worker,) = (await queue.roster.page(None, 10, OWN)).workers
    assert (worker.id, worker.jobs) == (made, ())


async def test_a_worker_that_gave_only_a_sign_of_life(queue: JobQueue) -> None:
    """A worker of which nothing is known but its heartbeats is in the channel of its job, with its own id."""
    worker_id, token = new_id(), new_id()
    job_id = await add(queue, channel=OWN)
    claim = Claim(token, keys_for(OWN, ["build"], "x86_64"), 60.0, None, stored_worker_id(worker_id, OWN))
    await queue.driver.claim([claim], 1)  # as before a restart, which forgets the workers
    assert (await queue.get(Lookup(job_id, OWN))).worker_id == worker_id
    await queue.touch(token)
    for channel in (OWN, None):
        (shown,) = (await queue.roster.page(None, 10, channel)).workers
        assert (shown.id, shown.channel, shown.jobs) == (worker_id, OWN, (job_id,))
    for channel in ("", OTHER):
        assert not (await queue.roster.page(None, 10, channel)).workers


def test_ids_of_workers() -> None:
    """The id that the storage gets is another one in each channel but the first, of the same kind, and can be read."""
    given = new_id()
    stored = {channel: stored_worker_id(given, channel) for channel in ("", OWN, OTHER)}
    assert stored[""] == given
    assert len(set(stored.values())) == 3
    for channel, one in stored.items():
        assert given_worker_id(one, channel) == given
        assert (one.version, one.variant) == (given.version, given.variant)
        assert stored_worker_id(NIL, channel) == NIL
