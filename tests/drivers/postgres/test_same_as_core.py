"""SQL that makes a transition in one statement agrees with the functions of the core, on random rows."""

import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest

from composerd.driver import StoredAttempt, StoredJob, transitions
from composerd.driver.clock import microseconds, seconds, to_time
from composerd.driver.tokens import hashed
from composerd.models import AttemptState, Claim, Job, JobState, NewJob, Touch
from composerd.testing.kit.instance import BUILD, PLENTY, Instance
from composerd_postgres.jobs.records import JobRecord, LeaseRecord
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array, encode

from ..conftest import Open

COUNT = 150
"""Number of rows that each test makes up."""

SEEDS = pytest.mark.parametrize("seed", range(3))

INSERT_LEASES = """
INSERT INTO {schema}.leases (token_hash, job_id, lease, handover, confirmed, began, timeout_at, deadline)
SELECT r.token, r.token, r.lease, r.handover, r.confirmed, r.began, r.timeout_at, r.deadline
FROM json_to_recordset(%(leases)s) AS r(
    token uuid, lease double precision, handover double precision, confirmed boolean, began timestamptz,
    timeout_at timestamptz, deadline timestamptz
)
"""

INSERT_ATTEMPTS = """
INSERT INTO {schema}.attempts (token_hash, job_id, number, state, confirm, lease)
SELECT token_hash, job_id, 1, 'running', handover IS NOT NULL, lease FROM {schema}.leases
"""


class Began(msgspec.Struct):
    """An attempt with its lease, for `transitions.begin`."""

    worker_id: UUID | None
    lease: int
    handover: int | None
    number: int = 0
    state: AttemptState = AttemptState.SUPERSEDED
    digest: bytes = b""
    confirmed: bool = False
    deadline: int = 0
    timeout_at: int | None = None


def _session(instance: Instance) -> Session:
    session = instance.driver._session  # type: ignore[attr-defined]
    assert isinstance(session, Session)
    return session


async def _fetch(session: Session, name: str, **parameters: Any) -> list[Any]:
    return await session.connections.fetch(session.statements[name], {"shift": session.shift, **parameters})


async def _now(session: Session) -> int:
    (row,) = await _fetch(session, "now")
    return int(row.now)


async def _leases(session: Session, tokens: Sequence[UUID]) -> dict[UUID, LeaseRecord]:
    """Return the leases as they are stored."""
    by_hash = {hashed(token): token for token in tokens}
    rows = await _fetch(session, "read_leases", hashes=array(by_hash))
    return {by_hash[row.token_hash]: LeaseRecord.of(row) for row in rows}


async def _jobs(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, JobRecord]:
    return {row.id: JobRecord.of(row) for row in await _fetch(session, "get", ids=array(job_ids))}


def _duration(chance: random.Random) -> float:
    """Return a random duration, in seconds, of which microseconds are not the smallest part."""
    return chance.choice([chance.random() * 5, chance.random() * 1000, 30.0, 0.1])


def _random_lease(chance: random.Random, now: int) -> LeaseRecord:
    """Return the lease of an attempt that began a while ago, and whose handover was perhaps confirmed since."""
    handover = chance.choice([None, microseconds(_duration(chance))])
    attempt = Began(None, microseconds(_duration(chance)), handover)
    job = JobRecord.new(NewJob(id=UUID(int=1), type="t"), (), 1, now)
    job.timeout = chance.choice([None, None, _duration(chance)])
    began = now - microseconds(chance.random() * 1000)
    transitions.begin(job, attempt, began)
    lease = LeaseRecord(attempt.confirmed, attempt.deadline, attempt.timeout_at, attempt.lease, attempt.handover)
    for _ in range(chance.randrange(3)):
        transitions.renew(lease, chance.randint(began, now))
    return lease


def _row(token: UUID, lease: LeaseRecord, began: int) -> dict[str, Any]:
    """Return the row of a lease for `INSERT_LEASES`."""
    return {
        "token": hashed(token),
        "lease": seconds(lease.lease),
        "handover": None if lease.handover is None else seconds(lease.handover),
        "confirmed": lease.confirmed,
        "began": to_time(began),
        "timeout_at": None if lease.timeout_at is None else to_time(lease.timeout_at),
        "deadline": to_time(lease.deadline),
    }


async def _store_leases(session: Session, rows: list[dict[str, Any]]) -> None:
    for statement in (INSERT_LEASES, INSERT_ATTEMPTS):
        text = statement.format(schema=session.options.schema)
        await session.connections.fetch(text, {"leases": encode(rows)})


def _time_of(after: LeaseRecord) -> int:
    """Return the time at which a lease was renewed, or its handover restarted."""
    return after.deadline - (after.lease if after.confirmed or after.handover is None else after.handover)


@SEEDS
async def test_touch_is_renew_and_restart_handover(open_instance: Open, seed: int) -> None:
    """The statement `touch` changes each lease as the functions `renew` and `restart_handover` do."""
    chance = random.Random(seed)
    instance = await open_instance()
    session = _session(instance)
    start = await _now(session)
    before = {instance.id(): _random_lease(chance, start) for _ in range(COUNT)}
    await _store_leases(session, [_row(token, lease, start) for token, lease in before.items()])
    tokens = [*before, *chance.sample([*before], 20)]  # some twice, with another `confirm` perhaps
    touches = [Touch(token, confirm=chance.random() < 0.5) for token in tokens]
    attempts = (await instance.driver.touch(touches)).items
    end = await _now(session)
    assert {attempt.state for attempt in attempts} == {AttemptState.RUNNING}
    after = await _leases(session, tokens)
    confirming = {touch.token for touch in touches if touch.confirm}
    for token, lease in before.items():
        restarts = not lease.confirmed and lease.handover is not None
        now = _time_of(after[token]) if token in confirming or restarts else start
        assert start <= now <= end
        for touch in touches:
            if touch.token == token:
                (transitions.renew if touch.confirm else transitions.restart_handover)(lease, now)
        assert after[token] == lease, token


@SEEDS
async def test_attach_renews(open_instance: Open, seed: int) -> None:
    """The statement `renew`, which `attach` uses, changes each lease as the function `renew` does."""
    chance = random.Random(seed)
    instance = await open_instance()
    session = _session(instance)
    start = await _now(session)
    before = {instance.id(): _random_lease(chance, start) for _ in range(COUNT)}
    await _store_leases(session, [_row(token, lease, start) for token, lease in before.items()])
    await _fetch(session, "renew", hashes=array(hashed(token) for token in before))
    end = await _now(session)
    after = await _leases(session, [*before])
    for token, lease in before.items():
        now = _time_of(after[token])
        assert start <= now <= end
        transitions.renew(lease, now)
        assert after[token] == lease


@SEEDS
async def test_claim_is_begin(open_instance: Open, seed: int) -> None:
    """The SQL function `claim` begins each attempt as `begin` does, the first at a job and later ones."""
    chance = random.Random(seed)
    instance = await open_instance()
    session = _session(instance)
    new = [
        instance.new(
            priority=chance.randint(-2, 2),
            timeout=chance.choice([None, _duration(chance)]),
            max_retries=100,
        )
        for _ in range(COUNT)
    ]
    await instance.submit(*new)
    job_ids = [job.id for job in new]
    for _ in range(2):
        before = await _jobs(session, job_ids)
        worker = instance.id()
        requests = [
            Claim(
                instance.id(),
                (BUILD,),
                _duration(chance),
                chance.choice([None, _duration(chance)]),
                chance.choice([None, worker]),
            )
            for _ in range(COUNT)
        ]
        claimed = (await instance.driver.claim(requests, PLENTY)).items
        after = await _jobs(session, job_ids)
        leases = await _fetch(session, "read_leases", hashes=array(hashed(request.token) for request in requests))
        began = {row.token_hash: row.began for row in leases}
        stored = await _leases(session, [request.token for request in requests])
        for request, answer in zip(requests, claimed, strict=True):
            assert answer is not None
            job, now = before[answer.job_id], began[hashed(request.token)]
            handover = None if request.handover is None else microseconds(request.handover)
            attempt = Began(request.worker_id, microseconds(request.lease), handover)
            transitions.begin(job, attempt, now)
            assert answer.attempt == attempt.number
            started_at = after[job.id].started_at
            assert started_at is not None
            assert 0 <= now - started_at < COUNT  # the attempts of one statement begin a microsecond apart
            job.started_at = started_at
            assert after[job.id] == job
            lease = (attempt.confirmed, attempt.deadline, attempt.timeout_at, attempt.lease, attempt.handover)
            assert stored[request.token] == LeaseRecord(*lease)
        await instance.driver.release([request.token for request in requests])


@SEEDS
async def test_delayed_jobs_start_when_their_time_has_come(open_instance: Open, seed: int) -> None:
    """The statement `start_delayed` makes exactly those jobs ready that would be ready if they were submitted now."""
    chance = random.Random(seed)
    instance = await open_instance()
    session = _session(instance)
    root = await instance.add()
    now = await _now(session) + microseconds(1000)
    delays = [-1, 0, 1, microseconds(500), -microseconds(500)]
    new = [
        instance.new(
            *chance.choice([(), (), (root,)]),
            not_before=chance.choice([None, *(to_time(now + delay) for delay in delays)]),
        )
        for _ in range(COUNT)
    ]
    await instance.submit(*new)
    job_ids = [job.id for job in new]
    before = await _jobs(session, job_ids)
    rows = await _fetch(session, "start_delayed", now=to_time(now), limit=2 * COUNT)
    after = await _jobs(session, job_ids)
    started = set()
    for job in before.values():
        if job.state is JobState.WAITING and job.pending == 0:
            again = msgspec.structs.replace(job)
            if transitions.submit(again, (), now).ready:
                transitions.start_delayed(job)
                started.add(job.id)
        assert after[job.id] == job
    assert {row.id for row in rows} == started
    assert len(started) < len(before)


@SEEDS
async def test_find_due_finds_what_expires(open_instance: Open, seed: int) -> None:
    """The statement `find_due` finds the attempts that `expiry` ends, and when the next one expires."""
    chance = random.Random(seed)
    instance = await open_instance()
    session = _session(instance)
    now = await _now(session)
    leases = {instance.id(): _random_lease(chance, now) for _ in range(COUNT)}
    await _store_leases(session, [_row(token, lease, now) for token, lease in leases.items()])
    (due,) = await _fetch(session, "find_due", expiring=True, limit=2 * COUNT)
    by_hash = {hashed(token): lease for token, lease in leases.items()}
    expired = [token_hash for token_hash, lease in by_hash.items() if transitions.expiry(lease, due.now) is not None]
    assert 0 < len(expired) < COUNT
    assert set(due.expired) == set(expired)
    order = [transitions.expires_at(by_hash[one]) for one in due.expired]
    assert order == sorted(order)
    assert due.next_expiry == min(transitions.expires_at(lease) for one, lease in by_hash.items() if one not in expired)


@SEEDS
async def test_excuse(open_instance: Open, seed: int) -> None:
    """The statement `grant_grace` changes each lease as the function `grant_grace` does."""
    chance = random.Random(seed)
    instance = await open_instance()
    session = _session(instance)
    now = await _now(session)
    before = {instance.id(): _random_lease(chance, now) for _ in range(COUNT)}
    await _store_leases(session, [_row(token, lease, now) for token, lease in before.items()])
    jump = microseconds([0.0, -3600.0, 3600.0][seed])
    await _fetch(session, "grant_grace", now=to_time(now), jump=seconds(jump))
    after = await _leases(session, [*before])
    for token, lease in before.items():
        transitions.grant_grace(lease, now, jump)
        assert after[token] == lease


async def test_shorten_backoffs(open_instance: Open) -> None:
    """The statement `shorten_backoffs` changes each job as the function `shorten_backoff` does."""
    chance = random.Random(1)
    instance = await open_instance()
    session = _session(instance)
    jobs = [
        instance.new(not_before=chance.choice([100.0, 5000.0]), retry_backoff=chance.choice([0.5, 60.0, 4000.0]))
        for _ in range(COUNT)
    ]
    await instance.submit(*jobs)
    update = f"UPDATE {session.options.schema}.jobs SET failures = mod(place, 4) * mod(place, 10)"
    await session.connections.fetch(update, {})
    before = await _jobs(session, [one.id for one in jobs])
    now = await _now(session)
    await _fetch(session, "shorten_backoffs", now=to_time(now))
    after = await _jobs(session, [*before])
    changed = 0
    for job_id, job in before.items():
        changed += transitions.shorten_backoff(job, now)
        assert after[job_id].not_before == job.not_before
    assert 0 < changed < COUNT


@SEEDS
async def test_stand_still(open_instance: Open, seed: int) -> None:
    """The statement `extend_lease` changes each lease as the function does, for the time in which it was running."""
    chance = random.Random(seed)
    instance = await open_instance()
    session = _session(instance)
    now = await _now(session)
    gap = [40.0, 4.0, 2.0][seed]
    before, rows = {}, []
    for _ in range(COUNT):
        token, lease = instance.id(), _random_lease(chance, now)
        age = microseconds(chance.choice([1.0, gap / 3, 100.0]))
        before[token] = lease, min(age, microseconds(gap))
        rows.append(_row(token, lease, now - age))
    await _store_leases(session, rows)
    await _fetch(session, "extend_lease", now=to_time(now), gap=gap, attended_within=3.0)
    after = await _leases(session, [*before])
    for token, (lease, absence) in before.items():
        if absence > microseconds(3.0) or absence * 2 > lease.lease:
            transitions.extend_lease(lease, now, absence)
        assert after[token] == lease


@SEEDS
async def test_load_resumes(open_instance: Open, seed: int) -> None:
    """The statement `insert_leases` gives a running attempt from another storage the lease that `resume` gives it."""
    chance = random.Random(seed)
    instance = await open_instance()
    session = _session(instance)
    start = await _now(session)
    leases: dict[UUID, LeaseRecord] = {}
    jobs = []
    for _ in range(COUNT):
        new = instance.new(timeout=chance.choice([None, _duration(chance)]))
        token, started_at = instance.id(), start - microseconds(chance.random() * 1000)
        attempt = StoredAttempt(token=token, number=1, state=AttemptState.RUNNING, lease=_duration(chance))
        job = Job(
            id=new.id,
            type=new.type,
            arch=new.arch,
            channel=new.channel,
            state=JobState.RUNNING,
            priority=new.priority,
            queued_at=to_time(started_at),
            started_at=to_time(started_at),
            attempt=1,
        )
        jobs.append(StoredJob(new=new, job=job, attempts=(attempt,)))
        timeout_at = None if new.timeout is None else started_at + microseconds(new.timeout)
        leases[token] = LeaseRecord(False, 0, timeout_at, microseconds(attempt.lease), None)
    await instance.driver.load(jobs)
    end = await _now(session)
    after = await _leases(session, [*leases])
    for token, lease in leases.items():
        now = after[token].deadline - lease.lease
        assert start <= now <= end
        transitions.resume(lease, now)
        assert after[token] == lease
