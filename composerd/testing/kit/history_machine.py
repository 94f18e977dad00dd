"""Random histories: a Hypothesis state machine that makes the same calls to a driver and to the model, and compares.

Its rules take small numbers, so that a failing history shrinks to one that can be read. All durations are multiples of
a thousand seconds, and time passes only in such steps: how fast the test runs never decides what is due.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from composerd.artifact_values import ListedArtifact
from composerd.errors import ComposerdError, JobEnded, JobNotEnded, JobNotFound
from composerd.models import (
    Artifact,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Enqueued,
    Job,
    JobFilter,
    JobState,
    NewJob,
    News,
    OnDependencyFailure,
    Outcome,
    Touch,
    Worker,
)
from composerd.testing.kit.history_comparison import SLACK, Comparison
from composerd.testing.kit.instance import PLENTY
from composerd.testing.kit.model import Model, ready_order
from composerd.testing.kit.steps import (
    KEYS,
    LAST,
    UNIT,
    heartbeats,
    index,
    lists,
    queries,
    repetitions,
    storage_steps,
    submission,
    units,
)

T = TypeVar("T")


def _has_ready(history: "History") -> bool:
    return any(job.state is JobState.READY for job in history.model.jobs.values())


def _has_jobs(history: "History") -> bool:
    return bool(history.model.jobs)


def _has_tokens(history: "History") -> bool:
    return bool(history.tokens)


class History(Comparison, RuleBasedStateMachine):
    """One history. `Histories` derives a class that has an `instance` and a `runner`."""

    steps = 0
    """The number of steps done, in all histories of a class."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.submissions: list[list[NewJob]] = []
        self.ids: list[UUID] = []
        self.ids_of_channels: dict[str, list[UUID]] = {}
        """The ids, by the channels of the jobs."""
        self.deleted: set[UUID] = set()
        self.tokens: list[UUID] = []
        self.base: float | None = None
        """The driver's time when the model's was 0, in seconds since the epoch; None until it is known."""
        self.next_advance = 0.0
        """Time, in the model's time, at which the driver said that `advance` is needed."""
        self.partials_known = True
        """True if the progress of running attempts is known; a restart may lose it."""
        self.workers: dict[UUID, tuple[Worker, float]] = {}
        self.worker_ids = [self.instance.id() for _ in range(3)]
        self.signed_off: set[UUID] = set()
        """The workers that have signed off and not described themselves since."""
        self.blocked: set[UUID] = set()
        """The jobs that the last purge could not delete because they were needed; a driver may try them again later."""
        self.purged_at = -1.0
        self.do(self.instance.empty())
        self.do(self.instance.shift(100 * UNIT))

    # Each of these rules stands for several, so that none of those is as frequent as a claim.

    @rule(step=heartbeats)
    @precondition(_has_tokens)
    def heartbeat(self, step: tuple[Any, ...]) -> None:
        """Touch an attempt, attach a file, or report that a worker was seen."""
        self.run(step)

    @rule(step=repetitions)
    @precondition(_has_tokens)
    def repeat(self, step: tuple[Any, ...]) -> None:
        """Repeat a submission or a claim."""
        self.run(step)

    @rule(step=queries)
    @precondition(_has_jobs)
    def query(self, step: tuple[Any, ...]) -> None:
        """Read something and compare it."""
        self.run(step)

    @rule(step=storage_steps)
    @precondition(_has_jobs)
    def on_storage(self, step: tuple[Any, ...]) -> None:
        """Restart the storage, reload everything, purge, let the server stand still, or set the clock."""
        self.run(step)

    def run(self, step: tuple[Any, ...]) -> None:
        """Call one of the methods below by its name."""
        getattr(self, step[0])(*step[1:])

    # Writes.

    @initialize(jobs=submission)
    def begin_with(self, jobs: list[dict[str, Any]]) -> None:
        """Submit some jobs to begin with."""
        self.submit(jobs)

    @rule(jobs=submission)
    def submit(self, jobs: list[dict[str, Any]]) -> None:
        """Submit new jobs."""
        new: list[NewJob] = []
        for fields in jobs:
            job = self.new_job(fields, [*self.ids, *[job.id for job in new]])
            self.ids_of_channels.setdefault(job.channel, []).append(job.id)
            new.append(job)
        self.submissions.append(new)
        self.ids += [job.id for job in new]
        self.enqueue(new)

    def new_job(self, fields: dict[str, Any], known: Sequence[UUID]) -> NewJob:
        """Return the job that a rule's small numbers describe."""
        fields = {**fields, **fields.get("traits", {})}
        key = KEYS[fields.get("key", 0)]
        own = self.ids_of_channels.get(key.channel, ())
        named = fields.get("idempotency_key")
        job_id = self.instance.id()
        return NewJob(
            id=job_id,
            type=key.type,
            arch=key.arch,
            channel=key.channel,
            args=None if fields.get("priority") else b'"%d"' % len(known),
            dependencies=tuple(  # `LAST` picks one that may be of another channel
                _pick(known if n == LAST else own, -n - 1)
                for n in fields.get("dependencies", ())
                if (known if n == LAST else own)
            ),
            priority=fields.get("priority", 0),
            not_before=fields["later"] * UNIT if "later" in fields else None,
            timeout=fields["timeout"] * UNIT if "timeout" in fields else None,
            max_retries=fields.get("max_retries", 2),
            retry_on_failure=fields.get("retry_on_failure", 0),
            retry_backoff=UNIT,
            on_dependency_failure=OnDependencyFailure.FAIL if "strict" in fields else OnDependencyFailure.RUN,
            idempotency_key=None if named is None else f"k{named}",
            fingerprint=b"" if named is None else b"f%d" % fields.get("priority", 0),
            retention=fields["retention"] * UNIT if "retention" in fields else None,
        )

    def submit_again(self, n: int) -> None:
        """Repeat a submission, unless one of its jobs was deleted: an id is never used again."""
        if self.submissions and not self.deleted.intersection(job.id for job in _pick(self.submissions, n)):
            self.enqueue(_pick(self.submissions, n))

    def enqueue(self, jobs: Sequence[NewJob]) -> None:
        """Submit jobs and compare the answer."""
        expected = self.model.enqueue(jobs)
        batch = self.do(self.instance.driver.enqueue([jobs]))
        (answer,) = batch.items
        if isinstance(expected, ComposerdError):
            assert (type(answer), answer.details) == (type(expected), expected.details)  # type: ignore[union-attr]
        else:
            assert isinstance(answer, Enqueued), answer
            assert [(job.id, created) for job, created in zip(answer.jobs, answer.created, strict=True)] == expected
            assert [job.state for job in answer.jobs] == [self.model.jobs[job_id].state for job_id, _ in expected]
        self.check_news(batch.news)

    @precondition(_has_ready)
    @rule(count=st.integers(1, 3), handover=st.booleans())
    def claim(self, count: int, handover: bool) -> None:
        """Claim jobs of any key."""
        self.claim_of(range(3), count, handover=handover)

    @rule(keys=st.sets(st.integers(0, 2), min_size=1, max_size=2), count=st.integers(1, 2))
    def claim_some(self, keys: set[int], count: int) -> None:
        """Claim jobs of some keys."""
        self.claim_of(keys, count, handover=False)

    def claim_of(self, keys: Iterable[int], count: int, *, handover: bool) -> None:
        """Claim jobs with new tokens."""
        wanted = tuple(KEYS[n] for n in keys)
        lives = UNIT if handover else None
        self.begin([Claim(self.instance.id(), wanted, 3 * UNIT, lives, self.instance.id()) for _ in range(count)])

    @precondition(_has_ready)
    @rule(failed=st.booleans())
    def work(self, failed: bool) -> None:
        """Claim a job and finish it."""
        self.claim_of(range(3), 1, handover=False)
        self.finish([(0, 0, failed, None)])

    def claim_again(self, n: int, key: int) -> None:
        """Claim with a token that was used before."""
        self.begin([Claim(self.token(n), (KEYS[key],), 3 * UNIT)])

    def begin(self, claims: Sequence[Claim]) -> None:
        """Claim and compare the answers."""
        batch = self.do(self.instance.driver.claim(claims, PLENTY))
        assert len(batch.items) == len(claims)
        for claim, claimed in zip(claims, batch.items, strict=True):
            found = self.model.find(claim.token)
            candidates = self.model.candidates(claim.keys)
            if found is None and candidates:
                assert claimed is not None, f"a job is ready, and the claim got none: {candidates}"
                assert claimed.job_id in candidates
                self.model.begin(claimed.job_id, claim)
                self.tokens.append(claim.token)
                found = self.model.find(claim.token)
            if found is None or found[1].state is not AttemptState.RUNNING:
                assert claimed is None
                continue
            job, attempt = found
            assert claimed is not None
            assert (claimed.token, claimed.job_id, claimed.key) == (claim.token, job.new.id, job.new.key)
            assert (claimed.args, claimed.dependencies) == (job.new.args, job.new.dependencies)
            assert claimed.attempt == attempt.number
        self.check_news(batch.news)

    def touch(self, n: int, partial: bytes | None, confirm: bool) -> None:
        """Touch an attempt."""
        touch = Touch(self.token(n), partial, confirm)
        found = self.model.find(touch.token)
        confirmed = found is not None and found[1].state is AttemptState.RUNNING and found[1].confirmed
        expected = msgspec.structs.replace(self.attempt(touch.token), confirmed=confirmed)
        batch = self.do(self.instance.driver.touch([touch]))
        assert batch.items == [expected]
        self.model.touch(touch)
        self.check_news(batch.news)

    def attach(self, n: int, name: str, location: str) -> None:
        """Attach a file."""
        token, artifact = self.token(n), Artifact(name, len(name + location) * 3, "ab" * 32, location)
        expected = self.attempt(token)
        batch = self.do(self.instance.driver.attach([Attachment(token, artifact)]))
        (attached,) = batch.items
        assert (_without_confirmed(attached.attempt), attached.replaced) == (
            expected,
            self.model.attach(token, artifact),
        )
        self.check_news(batch.news)

    @precondition(_has_tokens)
    @rule(which=st.lists(st.tuples(index, st.integers(0, 1), st.booleans(), lists), min_size=1, max_size=2))
    def finish(self, which: list[tuple[int, int, bool, tuple[ListedArtifact, ...] | None]]) -> None:
        """Report outcomes, some of which list the artifacts of their attempt."""
        compares = self.instance.driver.capabilities.compares_artifacts
        outcomes = [
            Outcome(self.token(n), b"%d" % result, failed, files if compares else None)
            for n, result, failed, files in which
        ]
        expected = []
        for outcome in outcomes:
            found = self.model.find(outcome.token)
            expected.append((self.model.finish(outcome), found and found[0].new.id))
        batch = self.do(self.instance.driver.finish(outcomes))
        assert [(one.verdict, one.job_id) for one in batch.items] == expected
        self.check_news(batch.news)

    @precondition(_has_tokens)
    @rule(n=index)
    def release(self, n: int) -> None:
        """Release an attempt."""
        token = self.token(n)
        expected = self.attempt(token)
        batch = self.do(self.instance.driver.release([token]))
        assert [_without_confirmed(one) for one in batch.items] == [expected]
        self.model.release(token)
        self.check_news(batch.news)

    @precondition(_has_jobs)
    @rule(n=index)
    def cancel(self, n: int) -> None:
        """Cancel a job."""
        job_id = self.job_id(n)
        batch = self.do(self.instance.driver.cancel([job_id]))
        (answer,) = batch.items
        job = self.model.jobs.get(job_id)
        if job is None:
            assert isinstance(answer, JobNotFound)
        elif job.state.ended and job.state is not JobState.CANCELED:
            assert isinstance(answer, JobEnded)
        else:
            assert isinstance(answer, Job), answer
            assert (answer.id, answer.state) == (job_id, JobState.CANCELED)
            if not job.state.ended:
                self.model.cancel(job)
        self.check_news(batch.news)

    @precondition(_has_jobs)
    @rule(n=index)
    def delete(self, n: int) -> None:
        """Delete a job."""
        job_id = self.job_id(n)
        (answer,) = self.do(self.instance.driver.delete([job_id])).items
        job = self.model.jobs.get(job_id)
        if job is None:
            assert answer is None
        elif not job.state.ended or self.model.needed(job):
            assert isinstance(answer, JobNotEnded)
        else:
            assert isinstance(answer, Job), answer
            self.compare(job, answer)
            self.forget(job_id)

    def forget(self, job_id: UUID) -> None:
        """Remove a job from the model."""
        del self.model.jobs[job_id]
        self.deleted.add(job_id)

    # Time, and the storage.

    @rule(count=units, advance=st.booleans())
    def pass_time(self, count: int, advance: bool) -> None:
        """Let time pass, with or without a call of `advance`."""
        self.do(self.instance.shift(count * UNIT))
        self.model.now += count * UNIT
        if advance:
            self.advance()

    def advance(self) -> None:
        """Do what is due and compare which jobs it concerned."""
        before = {job_id: job.state for job_id, job in self.model.jobs.items()}
        due = self.model.advance()
        batch = self.do(self.instance.driver.advance(1000))
        changed = {job_id for job_id, job in self.model.jobs.items() if job.state is not before[job_id]}
        assert due <= set(batch.items) <= due | changed
        self.next_advance = float("inf")
        self.check_news(batch.news)

    def purge(self) -> None:
        """Delete the jobs whose retention is over."""
        eligible = self.model.expired()
        purged = set(self.do(self.instance.driver.purge(1000)).items)
        assert purged <= eligible
        later = set(self.blocked) if self.purged_at == self.model.now else set()
        # Jobs that ended right when the clock jumped, by the model's coarse time, may have ended before that.
        kept_before = self.model.kept_before()
        later |= {one for one in eligible if self.model.jobs[one].finished_at == kept_before}
        assert eligible - purged <= later
        for job_id in purged:
            self.forget(job_id)
        jobs = self.model.jobs.values()
        self.purged_at = self.model.now
        self.blocked = {one.new.id for one in jobs if one.expires_at is not None and one.expires_at <= self.model.now}

    def restart(self) -> None:
        """Close the storage and open it again a moment later."""
        if not self.instance.driver.capabilities.durable:
            return
        self.advance()
        self.instance.shifted += 1.0
        self.do(self.instance.reopen())
        self.model.restart(shared=self.instance.driver.capabilities.shared)
        self.take_over_delayed_jobs()
        self.partials_known = False
        self.forget_workers()
        self.call_again()
        self.advance()  # as a server does when it starts

    def call_again(self) -> None:
        """Let workers that have called call again: the storage may have lost that they have (G4)."""
        running = [attempt for job in self.model.jobs.values() if (attempt := job.running) is not None]
        touches = [Touch(attempt.claim.token) for attempt in running if attempt.confirmed]
        batch = self.do(self.instance.driver.touch(touches))
        for touch in touches:
            self.model.touch(touch)
        self.check_news(batch.news)

    def take_over_delayed_jobs(self) -> None:
        """Find out which jobs whose time has not come are ready: they were so before the clock was set back (G5)."""
        jobs = self.model.jobs.values()
        early = [one for one in jobs if one.state is JobState.READY and (one.not_before or 0.0) > self.model.now]
        found = self.do(self.instance.driver.get([one.new.id for one in early]))
        for job, stored in zip(early, found, strict=True):
            assert stored is not None
            assert stored.state in (JobState.READY, JobState.WAITING)
            job.state = stored.state

    def freeze(self, count: int) -> None:
        """Let the server stand still for more than half of a lease."""
        self.do(self.instance.freeze(count * UNIT))
        self.model.now += count * UNIT
        self.model.grant_grace()
        self.advance()

    def jump(self, count: int) -> None:
        """Set the clock."""
        self.do(self.instance.jump(count * UNIT))
        self.model.jump(count * UNIT)
        self.forget_workers()
        self.advance()

    def reload(self) -> None:
        """Dump everything, delete it, and load it again."""
        self.advance()
        if any(job.running is not None and job.new.timeout is not None for job in self.model.jobs.values()):
            return  # the contract does not say when its timeout is over after a load
        dumped = self.do(self.instance.dump())
        assert [one.new.id for one in dumped] == list(self.model.jobs)
        self.do(self.instance.empty())
        self.do(self.instance.driver.load(dumped))
        self.model.reload()
        self.partials_known = False
        self.call_again()
        self.advance()

    # Workers.

    def forget_workers(self) -> None:
        """Go on with other workers: the contract does not say whether the old ones are still known."""
        self.workers.clear()
        self.worker_ids = [self.instance.id() for _ in range(3)]

    def seen(self, n: int, how: str) -> None:
        """Report that a worker was seen, or that it has signed off."""
        worker_id = self.worker_ids[n]
        known, _ = self.workers.pop(worker_id, (None, 0.0))
        if how == "signed off":
            self.do(self.instance.driver.sign_off([Worker(worker_id, "")]))
            self.signed_off.add(worker_id)
            return
        problem = "full" if how == "paused" else None
        worker = Worker(worker_id, "") if how == "alive" else Worker(worker_id, "x", ("t",), "c", problem=problem)
        self.do(self.instance.driver.seen([worker]))
        if how != "alive" or worker_id not in self.signed_off:
            self.signed_off.discard(worker_id)
            self.workers[worker_id] = (known or worker if how == "alive" else worker, self.model.now)

    def list_workers(self, count: int) -> None:
        """Compare the workers that were seen lately."""
        within = count * UNIT + SLACK
        expected = [one for one, at in reversed(self.workers.values()) if self.model.now - at < within]
        found = self.do(self.instance.driver.workers(within, self.worker_ids))
        assert [(one.id, one.arch, one.types, one.channel, one.problem) for one in found] == [
            (one.id, one.arch, one.types, one.channel, one.problem) for one in expected
        ]

    # Queries.

    def list_jobs(self, state: JobState | None, key: int | None, limit: int) -> None:
        """Compare a listing."""
        filter = (
            JobFilter(state) if key is None else JobFilter(state, KEYS[key].type, KEYS[key].channel, KEYS[key].arch)
        )
        expected = [
            job.new.id
            for job in reversed(self.model.jobs.values())
            if (state is None or job.state is state)
            and (filter.channel is None or job.new.channel == filter.channel)
            and (filter.arch is None or job.new.arch == filter.arch)
        ]
        assert self.do(self.listing(filter, limit)) == expected

    def ahead(self, n: int, limit: int) -> None:
        """Compare how many jobs are ahead of one."""
        job = self.model.jobs.get(self.job_id(n))
        count = self.do(self.instance.driver.ahead(self.job_id(n), limit))
        if job is None or job.state is not JobState.READY:
            assert count == 0
            return
        ready = [one for one in self.model.jobs.values() if one.state is JobState.READY and one.new.key == job.new.key]
        before = sum(ready_order(one) < ready_order(job) for one in ready)
        same = sum(ready_order(one) == ready_order(job) for one in ready) - 1
        assert min(before, limit) <= count <= min(before + same, limit)

    # The comparison after every step.

    @invariant()
    def driver_and_model_agree(self) -> None:
        """Compare everything that can be read of every job, after each step."""
        type(self).steps += 1
        self.do(self.compare_everything())

    def check_news(self, news: News) -> None:
        """Call `advance` if the news asks for it, and compare the news with what happened."""
        if news.due_in == 0:
            self.advance_until_idle(news)
            return
        self.compare_news(news)

    def advance_until_idle(self, news: News) -> None:
        """Call `advance` until nothing is left to do at once, and compare all the news."""
        self.model.advance()
        self.next_advance = float("inf")
        self.compare_news(self.do(self.instance.advance_until_idle(news)))

    def compare_news(self, news: News) -> None:
        """Check that the news contains what happened, and that `advance` will be called in time."""
        model = self.model
        assert model.ready_news <= {key for key, count in news.ready.items() if count > 0}
        assert model.ended_news <= set(news.ended)
        assert model.requeued_news <= set(news.requeued)
        assert all(model.jobs[one].state.ended for one in news.ended if one in model.jobs)
        for news_of_model in (model.ready_news, model.ended_news, model.requeued_news):
            news_of_model.clear()
        if news.due_in is not None:
            self.next_advance = min(self.next_advance, model.now + news.due_in)
        due = model.next_due()
        assert due is None or self.next_advance <= due + SLACK, "`advance` would be called too late"

    def attempt(self, token: UUID) -> Attempt:
        """Return what the driver has to answer about a token."""
        found = self.model.find(token)
        if found is None:
            return Attempt(AttemptState.UNKNOWN)
        job, attempt = found
        confirm = attempt.claim.handover is not None
        return Attempt(attempt.state, job.new.id, attempt.number, confirm, attempt.claim.worker_id)

    def token(self, n: int) -> UUID:
        """Return one of the latest tokens, of a running attempt if `n` is even; `LAST` gives an unknown one."""
        running = [one for one in self.tokens if self.attempt(one).state is AttemptState.RUNNING]
        if not self.tokens or n == LAST:
            return UUID(int=2**64)
        return _pick(running if running and n % 2 == 0 else self.tokens, -n // 2 - 1)

    def job_id(self, n: int) -> UUID:
        """Return one of the latest job ids; `LAST` gives an unknown id."""
        return UUID(int=2**64) if not self.ids or n == LAST else _pick(self.ids, -n - 1)


def _pick(things: Sequence[T], n: int) -> T:
    return things[n % len(things)]


def _without_confirmed(attempt: Attempt) -> Attempt:
    """Return an answer about an attempt without what only a touch has to say."""
    return msgspec.structs.replace(attempt, confirmed=False)
