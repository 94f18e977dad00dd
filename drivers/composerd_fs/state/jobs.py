"""The registry of all jobs and attempts: it finds them by id, sequence, token or key, whether archived or not.

It does not know what happens to a job. A job that has come to rest (it has ended, and no unended job depends on it) is
archived between two flushes, and is a record again before anything about it changes.
"""

from collections.abc import Iterator, Sequence
from uuid import UUID

from composerd.models import MAX_REMEMBERED_TOKENS, MAX_SHOWN_DEPENDENTS, AttemptState, IdPage, JobState, Key
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.frames import span_of
from composerd_fs.state.archive import Archive, Numbered, key_digest
from composerd_fs.state.channels import ChannelIndex
from composerd_fs.state.edges import Dependents
from composerd_fs.state.indexes import Expiries
from composerd_fs.state.interning import Interning
from composerd_fs.state.job import AttemptRecord, JobRecord
from composerd_fs.state.undo import Undo
from composerd_fs.state.usage import UsageCounts, size_of, size_of_files

ARCHIVED_FOR_ONE = 16
"""Number of archived jobs that take as long to write or to read as one job that is not archived."""


MOST_PACKED_EDGES = 2000
"""The most dependencies and dependents that an archived job may have."""

_WORK_OF_A_JOB = 30
"""The approximate work of archiving a job, if an edge takes 1: that is a third of a microsecond."""


class Jobs:
    """The jobs and attempts of the storage, their number by state, and their payloads in the journal."""

    def __init__(self, undo: Undo) -> None:
        self.live: dict[int, JobRecord] = {}
        """The jobs that are not archived, by `id.int`: an integer is hashed in C, a UUID in Python."""
        self.attempts: dict[int, AttemptRecord] = {}
        """The remembered attempts at live jobs, by `token.int`."""
        self.keys: dict[tuple[str, str], JobRecord] = {}
        """The live jobs that have an idempotency key, by channel and key."""
        self.interning = Interning()
        self.archive = Archive(self.interning)
        self.by_sequence = Numbered()
        self.channels = ChannelIndex()
        self.expiries = Expiries(self._expires_at, self.by_sequence.get)
        self.counts = dict.fromkeys(JobState, 0)
        self.live_bytes: dict[int, int] = {}
        """The bytes of payloads that jobs have, by segment."""
        self.usage = UsageCounts()
        self._undo = undo
        self._resting: list[JobRecord] = []

    @property
    def work(self) -> int:
        """Effort of writing or reading all jobs, as a number of jobs that are not archived."""
        live = len(self.live)
        return live + (sum(self.counts.values()) - live) // ARCHIVED_FOR_ONE

    # Finding.

    def find(self, job_id: UUID) -> JobRecord | None:
        """Return a job, or None.

        An archived job is returned as a copy: changes to it are lost unless `thaw` is called first.
        """
        job = self.live.get(job_id.int)
        if job is not None:
            return job
        for sequence in self.archive.ids.find(job_id.int.to_bytes(16)):
            job = self._archived(sequence)
            if job is not None and job.id == job_id:
                return job
        return None

    def find_listed(self, job_id: UUID) -> JobRecord | None:
        """Return a job, or None. The copy of an archived job is without its edges."""
        job = self.live.get(job_id.int)
        if job is not None:
            return job
        for sequence in self.archive.ids.find(job_id.int.to_bytes(16)):
            if self.id_at(sequence) == job_id:
                return self.at_listed(sequence)
        return None

    def find_attempt(self, token: UUID) -> AttemptRecord | None:
        """Return an attempt, or None. The attempt of an archived job is a copy, like its job."""
        attempt = self.attempts.get(token.int)
        if attempt is not None:
            return attempt
        for sequence in self.archive.tokens.find(token.int.to_bytes(16)):
            job = self._archived(sequence)
            for attempt in () if job is None else job.attempts:
                if attempt.token == token:
                    return attempt
        return None

    def find_key(self, channel: str, key: str) -> JobRecord | None:
        """Return the job that has an idempotency key in a channel, or None. An archived job is a copy."""
        job = self.keys.get((channel, key))
        if job is not None:
            return job
        for sequence in self.archive.keys.find(key_digest(channel, key)):
            job = self._archived(sequence)
            if job is not None and (job.key.channel, job.idempotency_key) == (channel, key):
                return job
        return None

    def at(self, sequence: int) -> JobRecord | None:
        """Return the job of a sequence, or None. An archived job is a copy."""
        job = self.by_sequence.get(sequence)
        return self.archive.unpack(job) if isinstance(job, bytes) else job

    def at_listed(self, sequence: int) -> JobRecord | None:
        """Return the job of a sequence, or None. The copy of an archived job is without its edges."""
        job = self.by_sequence.get(sequence)
        return self.archive.unpack_listed(job) if isinstance(job, bytes) else job

    def size_at(self, sequence: int) -> int:
        """Return the number of bytes of the archived job of a sequence; 0 for any other."""
        job = self.by_sequence.get(sequence)
        return len(job) if isinstance(job, bytes) else 0

    def id_at(self, sequence: int) -> UUID | None:
        """Return the id of the job of a sequence, or None."""
        job = self.by_sequence.get(sequence)
        return self.archive.id_of(job) if isinstance(job, bytes) else None if job is None else job.id

    def _archived(self, sequence: int) -> JobRecord | None:
        job = self.by_sequence.get(sequence)
        return self.archive.unpack(job) if isinstance(job, bytes) else None

    def state_and_key_at(self, sequence: int) -> tuple[JobState, Key] | None:
        """Return the state and the key of the job of a sequence, or None."""
        job = self.by_sequence.get(sequence)
        if job is None:
            return None
        return self.archive.state_and_key(job) if isinstance(job, bytes) else (job.state, job.key)

    def payloads_in(self, chunk: int) -> Iterator[tuple[int, Payload | None, Payload | None]]:
        """Iterate over the sequences, the args and the results of the jobs in a chunk."""
        for sequence, job in self.by_sequence.chunk(chunk):
            args, result = self.archive.payloads(job) if isinstance(job, bytes) else (job.args, job.result)
            yield sequence, args, result

    def dependents_of(self, job: JobRecord, since: int = 0, limit: int = MAX_SHOWN_DEPENDENTS) -> IdPage:
        """Return the first jobs from a sequence on that depend on a job; `next` is the sequence of the next one."""
        found: list[UUID] = []
        for sequence in job.dependents.since(since) if job.dependents else ():
            job_id = self.id_at(sequence)
            if job_id is None:
                continue  # it was deleted
            if len(found) == limit:
                return IdPage(tuple(found), sequence)
            found.append(job_id)
        return IdPage(tuple(found), None)

    def _expires_at(self, sequence: int) -> int | None:
        job = self.at(sequence)
        return None if job is None else job.expires_at

    # Adding and removing. A flush that is refused takes these changes back.

    def add(self, job: JobRecord) -> None:
        """Add a new job."""
        self._insert(job)
        self.usage.count(job.key.channel, 1, 0, size_of(job.args))
        self._undo.add((self._remove_new, job))

    def _remove_new(self, job: JobRecord) -> None:
        job.state = JobState.WAITING  # it is as it was when it was added: the changes of its count were taken back
        self._remove(job)
        self.usage.count(job.key.channel, -1, 0, -size_of(job.args))
        for attempt in job.attempts:  # those that it had when it was loaded
            attempt.state = AttemptState.UNKNOWN  # what the leases have of it is stale
        for job_id in set(job.dependencies):
            dependency = self.live.get(job_id.int)
            if dependency is not None and dependency.dependents is not None:
                dependency.dependents.discard(job.sequence)
        job.state = JobState.CANCELED  # its entries in the indexes are stale

    def delete(self, job: JobRecord) -> None:
        """Remove a live job and its attempts."""
        self._remove(job)
        self.expiries.left()
        self.count_files(job, -size_of_files(job.artifacts))
        size = size_of(job.args) + size_of(job.result)
        self.usage.count(job.key.channel, 0, 0, -size)
        self.usage.forget_unused(job.key.channel)
        self._undo.add((self.usage.count, job.key.channel, 0, 0, size))
        self._undo.add((self._undelete, job))

    def _undelete(self, job: JobRecord) -> None:
        self.interning.count(job.key, job.policy, 1)
        self._insert(job)
        self.rests(job)

    def connect(self, job: JobRecord, dependency: JobRecord, *, needs: bool = True) -> None:
        """Make a job a dependent of another, which it `needs` until it has ended. The caller has saved the other."""
        if dependency.dependents is None:
            dependency.dependents = Dependents()
        dependency.dependents.add(job.sequence)
        dependency.needed += needs

    def remember(self, job: JobRecord, attempt: AttemptRecord) -> None:
        """Add a new attempt at a job, and forget the oldest one beyond `MAX_REMEMBERED_TOKENS`."""
        attempts = self.attempts
        attempts[attempt.token.int] = attempt
        self._undo.add((self._forget_new, attempt))
        job.attempts = (*job.attempts, attempt)
        if len(job.attempts) > MAX_REMEMBERED_TOKENS:
            oldest = job.attempts[0]
            del attempts[oldest.token.int]
            self._undo.add((attempts.__setitem__, oldest.token.int, oldest))
            job.attempts = job.attempts[1:]

    def add_attempts(self, job: JobRecord) -> None:
        """Add the attempts that a new job has. They are removed with it if the flush is refused."""
        for attempt in job.attempts:
            self.attempts[attempt.token.int] = attempt

    def _forget_new(self, attempt: AttemptRecord) -> None:
        del self.attempts[attempt.token.int]
        attempt.state = AttemptState.UNKNOWN  # its entry among the leases is stale

    def _insert(self, job: JobRecord) -> None:
        self.by_sequence[job.sequence] = job
        self.channels.add(job.key.channel, job.sequence)
        self.counts[job.state] += 1
        self._register(job)

    def _remove(self, job: JobRecord) -> None:
        del self.by_sequence[job.sequence]
        self.channels.remove(job.key.channel, job.sequence)
        self.counts[job.state] -= 1
        self._unregister(job)
        self.interning.count(job.key, job.policy, -1)

    def _register(self, job: JobRecord) -> None:
        self.live[job.id.int] = job
        if job.idempotency_key is not None:
            self.keys[job.key.channel, job.idempotency_key] = job
        for attempt in job.attempts:
            self.attempts[attempt.token.int] = attempt

    def _unregister(self, job: JobRecord) -> None:
        del self.live[job.id.int]
        if job.idempotency_key is not None:
            del self.keys[job.key.channel, job.idempotency_key]
        for attempt in job.attempts:
            del self.attempts[attempt.token.int]

    def _shrink(self) -> None:
        """Give back the memory of dictionaries that have become empty: they keep room for what they had."""
        self.live.clear()
        self.attempts.clear()
        self.keys.clear()

    # The archive.

    def rests(self, job: JobRecord) -> None:
        """Mark a job as a candidate for the archive: it has ended, or fewer unended jobs depend on it."""
        self._resting.append(job)

    def archive_resting(self, work: int | None = None) -> bool:
        """Archive jobs that have come to rest: all, or as many as `work`. Return True if any is left.

        Call it between two flushes. A job with very many edges is not archived, because unpacking it would take long.
        Dependents that were deleted while the job was archived are dropped now: earlier, the flush that deleted them
        could still be refused, and a checkpoint that has begun before has to name them.
        """
        resting = self._resting
        if not resting:
            return False
        while resting and (work is None or work > 0):
            job = resting.pop()
            edges = job.edges if job.dependencies or job.dependents else 0
            if work is not None:
                work -= _WORK_OF_A_JOB + edges
            if (
                job.state.ended
                and not job.needed
                and edges <= MOST_PACKED_EDGES
                and self.by_sequence.get(job.sequence) is job
            ):
                if job.dependents and not self.archive.during_snapshot:
                    job.dependents = Dependents(one for one in job.dependents if self.by_sequence.get(one) is not None)
                self.by_sequence.replace(job.sequence, self.archive.add(job))
                self._unregister(job)
        if not self.live:
            self._shrink()
        return bool(resting)

    def thaw(self, job_id: UUID) -> JobRecord | None:
        """Return a job that is about to be changed, or None; take it out of the archive if necessary."""
        job = self.live.get(job_id.int)
        if job is not None:
            return job
        job = self.find(job_id)
        if job is None:
            return None
        data = self.by_sequence.get(job.sequence)
        assert isinstance(data, bytes), "a job that is not live is archived"
        self.archive.discard(data, job)
        self.by_sequence.replace(job.sequence, job)
        self._register(job)
        self.rests(job)
        return job

    # Checkpoints.

    def restore(self, job: JobRecord) -> None:
        """Add a job from a checkpoint."""
        self._insert(job)
        self.usage.count_job(job)
        for payload in (job.args, job.result):
            if isinstance(payload, int):  # no step to undo it: a checkpoint may have millions of jobs
                segment, _, length = span_of(payload)
                self._add_bytes(segment, length)

    def restore_archived(self, jobs: Sequence[bytes]) -> None:
        """Add packed jobs from a checkpoint, with as little work for each as possible: there may be millions."""
        live_bytes = self.live_bytes
        for data in jobs:
            job, shape = self.archive.restore(data)
            self.by_sequence[job.sequence] = data
            if shape.key.channel:
                self.channels.add(shape.key.channel, job.sequence)
            self.counts[shape.state] += 1
            self.usage.count(shape.key.channel, 0, 0, size_of(job.args) + size_of(job.result))
            if job.rest is not None and job.rest.artifacts:
                self.usage.count_files(shape.key.channel, sum(one.size for one in job.rest.artifacts))
            for payload in (job.args, job.result):
                if isinstance(payload, tuple):
                    live_bytes[payload[0]] = live_bytes.get(payload[0], 0) + payload[2]
            if shape.policy.retention is not None:
                self.expiries.add(job.queued_at + job.finished + shape.policy.retention, job.sequence)

    # Payloads and files.

    def count_files(self, job: JobRecord, size: int) -> None:
        """Count the bytes of files that a job gets, or with a negative number that it loses."""
        if size:
            self.usage.count_files(job.key.channel, size)
            self._undo.add((self.usage.count_files, job.key.channel, -size))

    def count_bytes(self, payload: Payload | None, sign: int = 1) -> int:
        """Count the bytes of a payload that a job gets, or with -1 as `sign` that it loses, and return their number."""
        if not isinstance(payload, int):
            return 0
        segment, _, length = span_of(payload)
        self._add_bytes(segment, sign * length)
        self._undo.add((self._add_bytes, segment, -sign * length))
        return length

    def _add_bytes(self, segment: int, length: int) -> None:
        total = self.live_bytes.get(segment, 0) + length
        if total:
            self.live_bytes[segment] = total
        else:
            del self.live_bytes[segment]
