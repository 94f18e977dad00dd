"""A unit of work: rows that are locked, what is decided about them, and the statements that make it so. The meaning of states is here.

Decisions are made here on rows that one transaction has locked, with the arithmetic of `composerd.driver.rules`; the
caller reads the rows, asks for changes, and ends the transaction with `commit`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from composerd.driver.rules import on_return, retry_backoff
from composerd.driver.transitions import RequeueCause, dependency_result, lost_result
from composerd.models import AttemptState, JobState
from composerd_postgres.db.connection import Transaction
from composerd_postgres.jobs.rows import Row, Run, later
from composerd_postgres.news.changes import Changes, notices
from composerd_postgres.sql.statements import Statements, array


class Work:
    """What one transaction changes."""

    def __init__(self, statements: Statements, origin: str, now: datetime) -> None:
        self._statements = statements
        self._origin = origin
        self.now = now
        self.changes = Changes()
        self.with_dependents: list[UUID] = []
        """Jobs that ended while others wait for that; what follows is drawn next, in transactions of its own."""
        self._rows: dict[UUID, Row] = {}
        self._runs: list[dict[str, Any]] = []
        self._dropped: list[Run] = []
        self._unpublished: list[UUID] = []
        self._results: list[tuple[UUID, bytes]] = []

    # What may be decided about a job that is locked.

    def finish(self, row: Row, run: Run, result: bytes, digest: bytes, *, failed: bool) -> None:
        """Accept the outcome of the attempt that runs."""
        self._end_run(run, AttemptState.FINISHED, digest)
        if failed and row.failures < row.retry_on_failure:
            row.failures += 1
            row.retries += 1
            row.returns = 0
            row.not_before = later(self.now, retry_backoff(row.retry_backoff, row.failures))
            self._unpublished.append(row.id)
            self._put_back(row)
        else:
            self._end(row, JobState.FAILED if failed else JobState.FINISHED, result)

    def give_back(self, row: Row, run: Run, cause: RequeueCause) -> None:
        """The attempt that runs is over without an outcome."""
        self._end_run(run, AttemptState.SUPERSEDED)
        self._unpublished.append(row.id)
        row.retries, row.returns, again = on_return(cause, row.retries, row.failures, row.returns, row.max_retries)
        if again:
            self._put_back(row)
        else:
            self._end(row, JobState.FAILED, lost_result(cause, row.max_retries))

    def cancel(self, row: Row, run: Run | None) -> None:
        """End a job that has not ended, and the attempt at it if one runs."""
        if run is not None:
            self._end_run(run, AttemptState.CANCELED)
            self._unpublished.append(row.id)
        self._end(row, JobState.CANCELED, None)

    def dependency_ended(self, row: Row, state: str, failed: Sequence[UUID] | None) -> None:
        """A dependency of a job has ended in this state; `failed` are all its dependencies that have failed, if that fails it too."""
        if row.state != JobState.WAITING.value:
            return
        if state == JobState.CANCELED.value:
            self._end(row, JobState.CANCELED, None)
            return
        row.pending -= 1
        self._rows[row.id] = row
        if failed is not None:
            known = set(failed)
            named = [one for one in dict.fromkeys(row.dependencies) if one in known]
            self._end(row, JobState.FAILED, dependency_result(named))
        elif row.pending == 0:
            self._wait_or_ready(row)

    # Steps that these have in common.

    def _put_back(self, row: Row) -> None:
        assert row.next_place is not None
        row.place = row.next_place
        row.state = JobState.WAITING.value
        self.changes.returned.append(row.id)
        self._wait_or_ready(row)

    def _wait_or_ready(self, row: Row) -> None:
        self._rows[row.id] = row
        if row.not_before is not None and row.not_before > self.now:
            self.changes.due((row.not_before - self.now).total_seconds())
            return
        row.state = JobState.READY.value
        self.changes.became_ready(row.key, (-row.priority, row.place))

    def _end(self, row: Row, state: JobState, result: bytes | None) -> None:
        self._rows[row.id] = row
        row.state = state.value
        row.finished_at = self.now
        row.expires_at = None if row.retention is None else later(self.now, row.retention)
        row.unsettled = row.open_edges
        if row.open_edges:
            self.with_dependents.append(row.id)
        if result is not None:
            self._results.append((row.id, result))
        self.changes.ended.append(row.id)

    def _end_run(self, run: Run, state: AttemptState, digest: bytes = b"") -> None:
        run.state = state.value
        run.digest = digest
        self._dropped.append(run)
        self._runs.append({"token": run.token, "state": run.state, "digest": digest})

    # Making it so.

    async def commit(self, transaction: Transaction, *more: str, **parameters: Any) -> None:
        """End the transaction with all that was decided, and with more statements that the caller has."""
        names = list(more)
        if self._rows:
            names.append("save_jobs")
            parameters["jobs"] = encode([_saved(row) for row in self._rows.values()])
        if self._dropped:
            names += ["save_attempts", "drop_leases", "drop_progress"]
            parameters["attempts"] = encode(self._runs)
            parameters["dropped"] = array(run.token for run in self._dropped)
            parameters["over"] = array(run.job_id for run in self._dropped)
        if self._unpublished:
            names.append("drop_artifacts")
            parameters["unpublished"] = array(self._unpublished)
        if self._results:
            names.append("save_results")
            parameters["results"] = encode([{"id": job_id, "body": body} for job_id, body in self._results])
        notify(names, parameters, self._statements.schema, self._origin, self.changes)
        await transaction.commit(self._statements.all(*names), parameters)


def notify(names: list[str], parameters: dict[str, Any], schema: str, origin: str, changes: Changes) -> None:
    """Add the statement that tells the other servers, if there is something to tell."""
    told = notices(origin, changes)
    if told:
        names.append("notify")
        parameters["channel"] = channel_of(schema)
        parameters["notices"] = encode(told)


def channel_of(schema: str) -> str:
    """The channel of the servers that share a schema."""
    return f"composerd_{schema}"


def encode(rows: Any) -> str:
    """Rows as a statement takes them: JSON, with bytes in base64."""
    return msgspec.json.encode(rows).decode()


def _saved(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state,
        "place": row.place,
        "pending": row.pending,
        "not_before": row.not_before,
        "finished_at": row.finished_at,
        "expires_at": row.expires_at,
        "retries": row.retries,
        "failures": row.failures,
        "returns": row.returns,
        "unsettled": row.unsettled,
    }
