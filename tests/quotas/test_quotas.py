"""Quotas of tenants, with a storage that the test plays."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import pytest

from composerd.errors import ComposerdError, QuotaForbids, QuotaUsedUp, Unavailable
from composerd.quotas import Quota, Quotas, parse
from composerd.quotas.quotas import FRESH, REMEMBERED

from .fixed import Fixed

JOBS, BYTES = Quota.WAITING_JOBS, Quota.PAYLOAD_BYTES


class Storage:
    """The use of the storage by channels, as the test says, and the number of readings."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[Quota, int]] = {}
        self.reads: list[list[str]] = []
        self.error: ComposerdError | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()
        """Set when a reading begins."""

    def add(self, channel: str, quota: Quota, amount: int = 1) -> None:
        """Store something."""
        stored = self.stored.setdefault(channel, {})
        stored[quota] = stored.get(quota, 0) + amount

    async def read(self, channels: Sequence[str]) -> Sequence[Mapping[Quota, int]]:
        """Return what the channels have at the beginning of the call."""
        self.reads.append(list(channels))
        self.asked.set()
        found = [dict(self.stored.get(channel, {})) for channel in channels]
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return found


class Clock:
    """A clock that the test sets, beside the time that passes."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


@pytest.fixture
def storage() -> Storage:
    """Return an empty storage."""
    return Storage()


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


def quotas_of(storage: Storage, clock: Callable[[], float], text: str) -> Quotas:
    """Return quotas with the limits that a file has."""
    return Quotas(Fixed(text), storage.read, shared=False, clock=clock)


async def submit(quotas: Quotas, storage: Storage, amount: int = 1, channel: str = "org-a") -> None:
    """Store so many jobs if the quota allows it, a moment later."""
    held = quotas.held(channel)
    await held.grow({JOBS: amount})
    await asyncio.sleep(0.001)
    storage.add(channel, JOBS, amount)
    held.settle()


async def test_bound_of_concurrent_requests(storage: Storage, clock: Clock) -> None:
    """Of many that come at once, exactly as many are allowed as there is room for, and nothing is read for each."""
    storage.add("org-a", JOBS, 3)
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 20")
    answers = await asyncio.gather(*(submit(quotas, storage) for _ in range(200)), return_exceptions=True)
    assert storage.stored["org-a"][JOBS] == 20
    assert sum(isinstance(one, QuotaUsedUp) for one in answers) == 200 - 17
    assert len(storage.reads) <= 3


async def test_bound_over_many_rounds(storage: Storage, clock: Clock) -> None:
    """While jobs come and go and readings take their time, there are never more than the limit."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 10")
    most = 0

    async def come_and_go() -> None:
        nonlocal most
        for _ in range(20):
            try:
                await submit(quotas, storage)
            except QuotaUsedUp:
                continue
            most = max(most, storage.stored["org-a"][JOBS])
            await asyncio.sleep(0)
            storage.add("org-a", JOBS, -1)

    await asyncio.gather(*(come_and_go() for _ in range(50)))
    assert most == 10


async def test_error_names_the_quota(storage: Storage, clock: Clock) -> None:
    """The error of a quota that is used up says which, its limit and what is used, and when to ask again."""
    storage.add("org-a", BYTES, 90)
    quotas = quotas_of(storage, clock, "[default]\npayload_bytes = 100")
    with pytest.raises(QuotaUsedUp) as caught:
        await quotas.held("org-a").grow({JOBS: 1, BYTES: 11})
    assert caught.value.details == {
        "quota": "payload_bytes",
        "limit": 100,
        "used": 90,
        "requested": 11,
        "retry_after": 60,
    }
    assert caught.value.retry_after == 60
    await quotas.held("org-a").grow({JOBS: 1, BYTES: 10})


async def test_more_than_the_quota_could_ever_hold(storage: Storage, clock: Clock) -> None:
    """A request that needs more than the whole quota is refused for good, without asking the storage."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 5")
    with pytest.raises(QuotaForbids) as caught:
        await quotas.held("org-a").grow({JOBS: 6})
    assert caught.value.details["quota"] == "waiting_jobs"
    assert storage.reads == []


async def test_refusal_by_a_late_reading(storage: Storage, clock: Clock) -> None:
    """Jobs that have left the storage since the last reading are noticed before a request is refused."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 2")
    for _ in range(20):
        await submit(quotas, storage)
        storage.add("org-a", JOBS, -1)
    assert len(storage.reads) <= 10


async def test_old_reading(storage: Storage, clock: Clock) -> None:
    """Jobs that other servers have stored are noticed within a second."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 5")
    await submit(quotas, storage)
    storage.add("org-a", JOBS, 4)
    clock.ahead += FRESH + 0.1
    with pytest.raises(QuotaUsedUp):
        await submit(quotas, storage)


async def test_stored_during_a_reading(storage: Storage, clock: Clock) -> None:
    """A job that is stored while a reading is in progress counts, whether the reading has it or not."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 3")
    await submit(quotas, storage)
    first = quotas.held("org-a")
    await first.grow({JOBS: 1})
    storage.may_answer.clear()
    reading = quotas.readings.next(quotas.ledger("org-a"))
    storage.asked.clear()
    await storage.asked.wait()
    assert quotas.ledger("org-a").used(JOBS) == 2
    storage.add("org-a", JOBS)
    first.settle()
    storage.may_answer.set()
    await reading
    assert quotas.ledger("org-a").used(JOBS) == 2
    await quotas.readings.next(quotas.ledger("org-a"))
    assert quotas.ledger("org-a").used(JOBS) == 2


@pytest.mark.parametrize(("servers", "most"), [(1, 40), (2, 40), (4, 80)])
async def test_servers_that_share_a_storage(storage: Storage, clock: Clock, servers: int, most: int) -> None:
    """Each server of a storage allows half of what it finds left, so two exceed no limit, and none is left unused."""
    limits = Fixed("[default]\nwaiting_jobs = 40")
    several = [Quotas(limits, storage.read, shared=True, clock=clock) for _ in range(servers)]
    requests = [submit(several[number % servers], storage) for number in range(400)]
    await asyncio.gather(*requests, return_exceptions=True)
    assert 40 <= storage.stored["org-a"][JOBS] <= most
    with pytest.raises(QuotaUsedUp):
        await submit(several[0], storage)


async def test_large_request_at_a_shared_storage(storage: Storage, clock: Clock) -> None:
    """One request may have all that is left, although others have to leave a half."""
    quotas = Quotas(Fixed("[default]\nwaiting_jobs = 40"), storage.read, shared=True, clock=clock)
    await submit(quotas, storage, 5)
    await submit(quotas, storage, 35)
    with pytest.raises(QuotaUsedUp):
        await submit(quotas, storage)


async def test_what_counts_twice_refuses_nobody(storage: Storage, clock: Clock) -> None:
    """A request is not refused because of writes in progress that the storage has counted already."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 10")
    first = quotas.held("org-a")
    await first.grow({JOBS: 6})
    storage.add("org-a", JOBS, 6)
    clock.ahead += FRESH + 0.1
    asyncio.get_running_loop().call_later(0.1, first.settle)
    async with asyncio.timeout(0.5):
        await submit(quotas, storage, 4)
    with pytest.raises(QuotaUsedUp):
        await submit(quotas, storage)


async def test_writes_that_hang(storage: Storage, clock: Clock) -> None:
    """A request that only writes in progress stand against is refused after a second."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 10")
    await quotas.held("org-a").grow({JOBS: 10})
    waiting = asyncio.create_task(submit(quotas, storage))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    clock.ahead += FRESH
    with pytest.raises(QuotaUsedUp) as caught:
        await waiting
    assert caught.value.details["used"] == 10


async def test_what_was_not_stored_is_given_back(storage: Storage, clock: Clock) -> None:
    """An amount that was allowed and not stored after all is free again at once."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 1")
    for _ in range(3):
        held = quotas.held("org-a")
        await held.grow({JOBS: 1})
        held.free()
        held.free()
    assert quotas.ledger("org-a").used(JOBS) == 0


async def test_storage_that_does_not_answer(storage: Storage, clock: Clock) -> None:
    """Nothing is allowed as long as the storage does not say what is used, and the next request asks again."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 1")
    storage.error = Unavailable("away")
    with pytest.raises(Unavailable, match="away"):
        await submit(quotas, storage)
    storage.error = None
    await submit(quotas, storage)


async def test_end_while_the_storage_hangs(storage: Storage, clock: Clock) -> None:
    """A server that stops does not wait for a storage that does not say what is used."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 1")
    storage.may_answer.clear()
    waiting = asyncio.create_task(submit(quotas, storage))
    await storage.asked.wait()
    async with asyncio.timeout(1):
        await quotas.close()
    waiting.cancel()


async def test_tenants_without_a_limit_cost_no_reading(storage: Storage, clock: Clock) -> None:
    """A channel without a limit of what it needs asks the storage nothing, and nothing is counted."""
    quotas = quotas_of(storage, clock, "[tenants.a]\nwaiting_jobs = 1")
    await submit(quotas, storage, channel="org-b")
    await quotas.held("org-a").grow({BYTES: 10})
    await quotas.check_submission("org-b")
    assert storage.reads == []
    assert quotas.ledger("org-b").used(JOBS) == 0


async def test_one_tenant_does_not_use_what_another_has(storage: Storage, clock: Clock) -> None:
    """Each tenant has the whole default for itself."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 2\nsubmissions_per_minute = 1\nopen_waits = 1")
    with ExitStack() as waits:
        for channel in ("org-a", "org-b", ""):
            await submit(quotas, storage, 2, channel)
            quotas.count_submission(channel)
            waits.enter_context(quotas.open_wait(channel))


async def test_submission_that_cannot_be_accepted(storage: Storage, clock: Clock) -> None:
    """A submission is refused before its body is read if there is no room for any."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 2")
    await quotas.check_submission("org-a")
    await submit(quotas, storage, 2)
    with pytest.raises(QuotaUsedUp):
        await quotas.check_submission("org-a")


async def test_submissions_a_minute(storage: Storage, clock: Clock) -> None:
    """Submissions beyond the limit are refused until as many seconds have passed as the error says."""
    quotas = quotas_of(storage, clock, "[default]\nsubmissions_per_minute = 3")
    for _ in range(3):
        quotas.count_submission("org-a")
    with pytest.raises(QuotaUsedUp) as caught:
        quotas.count_submission("org-a")
    assert caught.value.details["quota"] == "submissions_per_minute"
    assert 59 <= caught.value.retry_after <= 61
    clock.ahead += caught.value.retry_after
    quotas.count_submission("org-a")


async def test_no_submissions_at_all(storage: Storage, clock: Clock) -> None:
    """A request is refused for good where nothing is allowed, because waiting does not help."""
    quotas = quotas_of(storage, clock, "[default]\nsubmissions_per_minute = 0\nopen_waits = 0\nwaiting_jobs = 0")
    with pytest.raises(QuotaForbids):
        quotas.count_submission("org-a")
    with pytest.raises(QuotaForbids), quotas.open_wait("org-a"):
        pass
    with pytest.raises(QuotaForbids):
        await quotas.check_submission("org-a")


async def test_open_waits(storage: Storage, clock: Clock) -> None:
    """As many requests may wait as the limit says, and one more as soon as one has ended."""
    quotas = quotas_of(storage, clock, "[default]\nopen_waits = 2")
    with quotas.open_wait("org-a"):
        with quotas.open_wait("org-a"):
            with pytest.raises(QuotaUsedUp) as caught, quotas.open_wait("org-a"):
                pass
            assert caught.value.details["quota"] == "open_waits"
        with quotas.open_wait("org-a"):
            pass


async def test_log_of_refusals(storage: Storage, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Refusals are logged once a minute for each tenant and quota, with their number, and counted by quota."""
    quotas = quotas_of(storage, clock, "[default]\nsubmissions_per_minute = 0")

    def refused(channel: str, times: int) -> None:
        for _ in range(times):
            with pytest.raises(QuotaForbids):
                quotas.count_submission(channel)

    with caplog.at_level(logging.WARNING):
        refused("org-a", 10)
        refused("org-b", 10)
        clock.ahead += 61
        refused("org-a", 1)
    assert [record.getMessage().partition(" is used up")[0] for record in caplog.records] == [
        "the quota submissions_per_minute of tenant a",
        "the quota submissions_per_minute of tenant b",
        "the quota submissions_per_minute of tenant a",
    ]
    assert caplog.records[-1].getMessage().endswith("since the last such line: 10")
    assert quotas.refused[Quota.SUBMISSIONS_PER_MINUTE] == 21


async def test_limits_that_change(storage: Storage, clock: Clock) -> None:
    """A limit that is changed applies at once."""
    limits = Fixed("[default]\nwaiting_jobs = 1")
    quotas = Quotas(limits, storage.read, shared=False, clock=clock)
    await submit(quotas, storage)
    with pytest.raises(QuotaUsedUp):
        await submit(quotas, storage)
    limits.value = parse(b"[default]\nwaiting_jobs = 2")
    await submit(quotas, storage)


async def test_tenants_are_forgotten(storage: Storage, clock: Clock) -> None:
    """Memory does not grow with the tenants that have ever come, and those in progress are not forgotten."""
    quotas = quotas_of(storage, clock, "[default]\nwaiting_jobs = 1\nopen_waits = 1")
    held = quotas.held("org-busy")
    await held.grow({JOBS: 1})
    with quotas.open_wait("org-waits"):
        for number in range(3 * REMEMBERED):
            quotas.ledger(f"org-{number}")
        assert quotas.ledger("org-busy").used(JOBS) == 1
        with pytest.raises(QuotaUsedUp), quotas.open_wait("org-waits"):
            pass
    assert len(quotas._tenants) <= REMEMBERED + 2
