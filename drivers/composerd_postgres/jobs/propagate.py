"""Propagates the ends of jobs to their dependents, in bounded transactions."""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from composerd.driver import transitions
from composerd.errors import ComposerdError
from composerd.models import MAX_STEP, JobState
from composerd_postgres.db.connection import Rows, Transaction, repeated
from composerd_postgres.jobs.decisions import Decisions
from composerd_postgres.jobs.records import JobRecord
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array, encode

FAILED = JobState.FAILED

log = logging.getLogger(__name__)

EDGES_OF_A_TRANSACTION = 250
"""Largest number of edges along which one transaction propagates ends: others wait for its locks."""

DEPENDENCIES_OF_A_TRANSACTION = 10_000
"""Number of dependencies that one transaction reads to find those that failed, unless one dependent has more."""

EDGES_OF_A_CALL = MAX_STEP
"""Largest number of edges along which a call propagates ends; it leaves the rest to `advance`."""


async def propagate(session: Session, ended: Sequence[UUID], changes: Changes, limit: int = EDGES_OF_A_CALL) -> int:
    """Propagate the ends of jobs to their dependents, and on to theirs where that ends them.

    It stops at `limit`, and when an error of the storage occurs, which is logged and not raised: the call that ended
    the jobs has succeeded, and `advance` completes the rest. Return along how many edges it has propagated.
    """
    done = 0
    left = list(ended)
    try:
        while left and done < limit:
            most = min(limit - done, EDGES_OF_A_TRANSACTION)
            count, ended_too, more = await repeated(_propagate_some, session, left, most, changes)
            done += count
            if ended_too:
                changes.due(0.0)  # perhaps there are dependents of theirs that were submitted just now
            left = [*left, *ended_too] if more else []
    except ComposerdError as exc:
        log.warning("propagating ends of jobs failed and is repeated later: %s", exc)
        changes.recheck = True  # it is unknown if the last transaction was committed
    if left:
        changes.due(0.0)
    return done


async def _propagate_some(
    session: Session, ended: Sequence[UUID], limit: int, changes: Changes
) -> tuple[int, list[UUID], bool]:
    """Propagate along some edges, of a dependent that ends on to its own dependents.

    Return along how many, the jobs that ended and had dependents, and True if there may be further edges.
    """
    statements = session.statements
    parameters: dict[str, Any] = {
        "shift": session.shift,
        "ended": array(ended),
        "limit": limit,
        "most": DEPENDENCIES_OF_A_TRANSACTION,
    }
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        rows = await transaction.begin(statements.joined("lock_dependents", "read_dependents"), parameters)
        if not rows:
            await transaction.commit(statements["mark_propagated"], parameters)
            return 0, [], False
        decisions = Decisions(session, rows[0].now)
        closed = _Walk(decisions, rows).walk(ended)
        edges = encode([{"dependency": dependency, "dependent": dependent} for dependency, dependent in closed])
        await decisions.commit(transaction, "close_edges", "mark_propagated", **parameters, edges=edges)
    changes.add(decisions.changes)
    return len(closed), decisions.to_propagate, rows[0].more


class _Walk:
    """A walk from ended jobs along edges, breadth first, which ends jobs on its way."""

    def __init__(self, decisions: Decisions, rows: Rows) -> None:
        self._decisions = decisions
        self._jobs = {row.id: JobRecord.locked(row) for row in rows}
        self._failed = {row.id: set(row.failed) for row in rows if row.failed is not None}
        """The failed dependencies of each job that fails with one."""
        self._states: dict[UUID, JobState] = {}
        """The states of the dependencies."""
        self._dependents: dict[UUID, list[UUID]] = {}
        """For each dependency those that were locked, the latest first."""
        for row in rows:
            for dependency, state in zip(row.ends, row.states, strict=True):
                self._states[dependency] = JobState(state)
                self._dependents.setdefault(dependency, []).append(row.id)

    def walk(self, ended: Sequence[UUID]) -> list[tuple[UUID, UUID]]:
        """Apply the ends of jobs, in order, and of those that end with them; return the edges that were followed."""
        followed: list[tuple[UUID, UUID]] = []
        left = deque(ended)
        while left:
            dependency = left.popleft()
            for dependent in self._dependents.pop(dependency, ()):
                followed.append((dependency, dependent))
                if self._end_dependency(self._jobs[dependent], self._states[dependency]):
                    left.append(dependent)
        return followed

    def _end_dependency(self, job: JobRecord, state: JobState) -> bool:
        """Apply the end of one dependency to a job; return True if the job ends with it."""
        if job.state is not JobState.WAITING:
            return False

        def failed() -> list[UUID]:
            known = self._failed[job.id]
            return [one for one in dict.fromkeys(job.dependencies) if one in known or self._states.get(one) is FAILED]

        effects = transitions.dependency_ended(job, state, failed, self._decisions.now)
        self._decisions.apply(job, effects)
        self._states[job.id] = job.state
        return effects.ended
