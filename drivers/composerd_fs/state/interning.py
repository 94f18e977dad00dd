"""Rows and runs from what was recorded of them; what many say alike is one object."""

from uuid import UUID

from composerd.models import Artifact, AttemptState, Key
from composerd_fs.journal.entries import ArtifactFields, AttemptFields, JobFields
from composerd_fs.state.job import Policy, Row, Run

MAX_WORKERS = 100_000
"""How many workers' ids are kept as one object each."""


class Made:
    """Makes them, and remembers what they share."""

    def __init__(self) -> None:
        self._policies: dict[Policy, Policy] = {}
        self._names: dict[Key, Key] = {}
        self._workers: dict[UUID, UUID] = {}

    def row(self, fields: JobFields, seq: int, at: int) -> Row:
        """A row with what was submitted but its args; nobody knows of it yet. What many rows say alike they share."""
        said = (
            fields.timeout,
            fields.max_retries,
            fields.retry_on_failure,
            fields.retry_backoff,
            fields.fail_with_dependency,
            fields.retention,
        )
        named = (fields.channel, fields.type, fields.arch)
        # An equal plain tuple finds them: most are there, and need not be made.
        policy = self._policies.get(said) or self.policy(Policy(*said))  # type: ignore[call-overload]
        key = self._names.get(named) or self.key(Key(*named))  # type: ignore[call-overload]
        row = Row(fields.id, seq, key, policy, fields.priority, at)
        row.dependencies = fields.dependencies
        row.not_before = fields.not_before
        row.idempotency_key = fields.idempotency_key
        row.fingerprint = fields.fingerprint
        return row

    def attempts(self, row: Row, attempts: list[AttemptFields], artifacts: dict[str, Artifact]) -> list[Run]:
        """The attempts at a job that are remembered, from their record; the one that runs has the artifacts."""
        runs = []
        for fields in attempts:
            run = Run(fields.token, row, fields.number, fields.lease, None, None)
            run.state = AttemptState(fields.state)
            run.confirm = fields.confirm
            run.digest = fields.digest
            run.worker = self.worker(fields.worker)
            row.number = max(row.number, run.number)
            if run.state is AttemptState.RUNNING:
                run.artifacts = artifacts
            runs.append(run)
        return runs

    def key(self, key: Key) -> Key:
        """A key as one object, however many jobs have it."""
        return self._names.setdefault(key, key)

    def policy(self, policy: Policy) -> Policy:
        """The same for a policy."""
        return self._policies.setdefault(policy, policy)

    def worker(self, worker_id: UUID | None) -> UUID | None:
        """A worker's id as one object, however many jobs name it."""
        if worker_id is None:
            return None
        if len(self._workers) > MAX_WORKERS:
            self._workers.clear()
        return self._workers.setdefault(worker_id, worker_id)


def artifact_of(fields: ArtifactFields) -> Artifact:
    """An artifact from its record."""
    return Artifact(fields.name, fields.size, fields.sha256.hex(), fields.place)
