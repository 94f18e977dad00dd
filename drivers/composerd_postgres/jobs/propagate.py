"""Propagates the ends of jobs to their dependents, in bounded transactions."""

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from composerd.driver import transitions
from composerd.errors import ComposerdError
from composerd.models import MAX_STEP, JobState
from composerd_postgres.db.connection import Transaction, repeated
from composerd_postgres.jobs.decisions import Decisions
from composerd_postgres.jobs.records import JobRecord
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array, encode

log = logging.getLogger(__name__)

DEPENDENTS_OF_A_TRANSACTION = 1000
"""Largest number of dependents that one transaction propagates to."""

DEPENDENTS_OF_A_CALL = MAX_STEP
"""Largest number of dependents that a call propagates to; it leaves the rest to `advance`."""


async def propagate(
    session: Session, ended: Sequence[UUID], changes: Changes, limit: int = DEPENDENTS_OF_A_CALL
) -> int:
    """Propagate the ends of jobs to their dependents, and on to theirs where that ends them; return to how many.

    It stops at about `limit`, and when an error of the storage occurs, which is logged and not raised: the call that
    ended the jobs has succeeded, and `advance` completes the rest.
    """
    done = 0
    left = list(ended)
    try:
        while left and done < limit:
            most = min(limit - done, DEPENDENTS_OF_A_TRANSACTION)
            count, ended_too = await repeated(_propagate_some, session, left, most, changes)
            done += count
            left = [*(left if count >= most else []), *ended_too]
    except ComposerdError as exc:
        log.warning("propagating ends of jobs failed and is repeated later: %s", exc)
        changes.recheck = True  # it is unknown if the last transaction was committed
    if left:
        changes.due(0.0)
    return done


async def _propagate_some(
    session: Session, ended: Sequence[UUID], limit: int, changes: Changes
) -> tuple[int, list[UUID]]:
    """Propagate to some dependents; return to how many, and the dependents whose own ends have to be propagated now.

    If the number is not less than `limit`, there may be further dependents.
    """
    statements = session.statements
    parameters: dict[str, Any] = {"shift": session.shift, "ended": array(ended), "limit": limit}
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        edges = await transaction.begin(statements.joined("lock_dependents", "read_dependents"), parameters)
        if not edges:
            await transaction.commit(statements["mark_propagated"], parameters)
            return 0, []
        decisions = Decisions(session, edges[0].now)
        order = {job_id: nth for nth, job_id in enumerate(ended)}
        edges.sort(key=lambda edge: order[edge.dependency])  # as they ended; of one job the latest dependent first
        jobs: dict[UUID, JobRecord] = {}
        for edge in edges:
            job = jobs.get(edge.id)
            if job is None:
                job = jobs[edge.id] = JobRecord.locked(edge)
            if job.state is JobState.WAITING:
                _end_dependency(decisions, job, edge.dependency_state, edge.failed)
        closed = encode([{"dependency": edge.dependency, "dependent": edge.id} for edge in edges])
        await decisions.commit(transaction, "close_edges", "mark_propagated", **parameters, edges=closed)
    changes.add(decisions.changes)
    return len(edges), decisions.to_propagate


def _end_dependency(decisions: Decisions, job: JobRecord, state: str, failed: Sequence[UUID] | None) -> None:
    """Apply the end of one dependency; `failed` are all that have failed, in no order, if that fails the job."""

    def failed_in_order() -> list[UUID]:
        known = set(failed or ())
        return [one for one in dict.fromkeys(job.dependencies) if one in known]

    decisions.apply(job, transitions.dependency_ended(job, JobState(state), failed_in_order, decisions.now))
