"""What workers do: claim, touch, attach, finish, release; and the cancel and deletion of jobs."""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from composerd.driver import Batch
from composerd.driver.transitions import RequeueCause
from composerd.errors import ComposerdError, DriverTimeout, JobEnded, JobNotEnded, JobNotFound
from composerd.models import (
    UNKNOWN_ATTEMPT,
    Artifact,
    Attached,
    Attachment,
    Attempt,
    AttemptState,
    Claim,
    Claimed,
    Finished,
    Job,
    JobState,
    Key,
    News,
    Outcome,
    Touch,
    Verdict,
)
from composerd_postgres.db.connection import Rows, Transaction, repeated
from composerd_postgres.jobs.decisions import encode
from composerd_postgres.jobs.rows import (
    WIDTH,
    Row,
    Run,
    artifact_of,
    artifact_record,
    attempt_of,
    job_of,
    locked_row_of,
    run_of,
)
from composerd_postgres.news.changes import Changes
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array

CONTENDED = 50
"""How often a claim is made again because ready jobs were locked just then by somebody who may not take them."""

CONTENDED_PAUSE = 0.002

CLASSES = 32
"""How many different sets of keys one statement asks for: it looks through all of them for each."""


async def claim(session: Session, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
    """See `Driver.claim`.

    A request whose jobs are all locked just then holds up nobody: it is set aside, and made again after the others. One
    that stays locked out is told that there is none, and that there is something ready: so it is asked again.
    """
    answers: dict[int, Claimed | None] = {}
    due: float | None = None
    rest = list(range(len(requests)))
    aside: list[int] = []
    full = False
    for _ in range(CONTENDED):
        while rest and not full:
            some = _few_classes(requests, rest)
            rows, answered, contended = await _claim(session, [requests[nth] for nth in some], max_bytes)
            answers.update(dict.fromkeys(rest[:answered]))
            for row in rows:
                token, job_id, channel, type_, arch, _, _, args, dependencies, attempt, lapses_in, nth = row[:12]
                body = None if args is None else bytes(args)
                key = Key(channel, type_, arch or None)
                answers[rest[nth - 1]] = Claimed(token, job_id, key, body, tuple(dependencies), attempt)
                max_bytes -= len(body or b"")
                if lapses_in is not None:
                    due = lapses_in if due is None else min(due, lapses_in)
            rest = rest[answered:]
            full = bool(answers) and (max_bytes <= 0 or (answered < len(some) and not contended))
            if contended:
                locked_out = set(requests[rest[0]].keys)
                while rest and set(requests[rest[0]].keys) == locked_out:
                    aside.append(rest.pop(0))
        if not aside or full:
            break
        rest, aside = aside, []
        await asyncio.sleep(CONTENDED_PAUSE)
    aside += rest
    known = max(answers) + 1 if full else len(requests)
    ready = {key: 1 for nth in aside if nth < known for key in requests[nth].keys}
    return Batch([answers.get(nth) for nth in range(known)], News(ready=ready, due_in=due))


def _few_classes(requests: Sequence[Claim], rest: list[int]) -> list[int]:
    """As many of the rest as may go into one statement, from the first on."""
    classes: set[frozenset[Key]] = set()
    for place, nth in enumerate(rest):
        classes.add(frozenset(requests[nth].keys))
        if len(classes) > CLASSES:
            return rest[:place]
    return rest


async def _claim(session: Session, requests: Sequence[Claim], max_bytes: int) -> tuple[Rows, int, bool]:
    """The jobs that one statement got, how many requests it answered, and whether more were there but locked."""
    clock = asyncio.get_running_loop().time
    classes: dict[frozenset[Key], int] = {}
    asked = []
    for request in requests:
        number = classes.setdefault(frozenset(request.keys), len(classes))
        asked.append(
            {
                "token": request.token,
                "class": number,
                "lease": request.lease,
                "handover": request.handover,
                "worker": request.worker_id,
            }
        )
    wanted = [
        {
            "class": number,
            "channel": key.channel,
            "type": key.type,
            "arch": key.arch or "",
            "rank": position[0],
            "place": position[1],
        }
        for keys, number in classes.items()
        for key, position in ((key, session.heads.get(key, clock())) for key in keys)
    ]
    parameters = session.parameters(asked=encode(asked), wanted=encode(wanted), most=max_bytes)
    with session.heads.flight() as flight:
        *rows, end = await session.connections.fetch(session.statements["claim"], parameters)
        for row in rows:
            channel, type_, arch, rank, place = row[2:7]
            if row[12]:
                session.heads.taken(flight, Key(channel, type_, arch or None), (rank, place), clock())
    return rows, end[11], end[13]


async def touch(session: Session, touches: Sequence[Touch]) -> list[Attempt]:
    """See `Driver.touch`."""
    if not touches:
        return []
    parameters = session.parameters(
        touches=encode([{"token": one.token, "partial": one.partial, "confirm": one.confirm} for one in touches])
    )
    try:
        rows = await session.connections.fetch(session.statements["touch"], parameters)
    except DriverTimeout:
        session.connections.lost = True  # who holds these leases is there, and could not say so
        raise
    return [
        UNKNOWN_ATTEMPT if state is None else Attempt(AttemptState(state), job_id, number, confirm, worker_id)
        for state, job_id, number, confirm, worker_id in rows
    ]


class _Locked:
    """Attempts whose jobs are locked, by token, and those jobs."""

    def __init__(self, records: Rows) -> None:
        self.rows: dict[UUID, Row] = {}
        self.runs: dict[UUID, Run] = {}
        places = sorted(record[WIDTH + 2] for record in records if record[WIDTH + 2] is not None)
        self._places = iter(places)
        for record in records:
            run = run_of(record[WIDTH + 3 :])
            self.runs[run.token] = run
            self.rows.setdefault(run.job_id, locked_row_of(record))

    def row(self, run: Run) -> Row:
        """The job of an attempt."""
        return self.rows[run.job_id]

    def row_to_return(self, run: Run) -> Row:
        """The job of an attempt that may go back: places are given in the order of the calls."""
        row = self.rows[run.job_id]
        row.next_place = next(self._places, row.next_place)
        return row


async def lock(
    session: Session, transaction: Transaction, tokens: Sequence[UUID], *, places: bool
) -> tuple[_Locked, datetime | None]:
    """Begin a transaction by locking the jobs of attempts; the time after that, None if there are no such attempts."""
    parameters = session.parameters(tokens=array(tokens), places=places)
    records = await transaction.begin(session.statements.all("lock_attempts", "read_attempts"), parameters)
    return _Locked(records), records[0][0] if records else None


async def finish(session: Session, outcomes: Sequence[Outcome]) -> tuple[list[Finished], Changes]:
    """See `Driver.finish`."""
    if not outcomes:
        return [], Changes()
    answers, changes, with_dependents = await repeated(lambda: _finish(session, outcomes))
    if with_dependents:
        await session.settle(with_dependents, changes)
    return answers, changes


async def _finish(session: Session, outcomes: Sequence[Outcome]) -> tuple[list[Finished], Changes, list[UUID]]:
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        tokens = [outcome.token for outcome in outcomes]
        locked, now = await lock(session, transaction, tokens, places=any(outcome.failed for outcome in outcomes))
        if now is None:
            await transaction.commit()
            return [Finished(Verdict.UNKNOWN) for _ in outcomes], Changes(), []
        work = session.work(now)
        answers = []
        for outcome in outcomes:
            run = locked.runs.get(outcome.token)
            digest = hashlib.sha256(outcome.result).digest()[:16]
            if run is None:
                answers.append(Finished(Verdict.UNKNOWN))
            elif run.running:
                row = locked.row_to_return(run) if outcome.failed else locked.row(run)
                work.finish(row, run, outcome.result, digest, failed=outcome.failed)
                answers.append(Finished(Verdict.ACCEPTED, run.job_id))
            elif run.state == AttemptState.FINISHED.value:
                verdict = Verdict.ACCEPTED if run.digest == digest else Verdict.CONFLICT
                answers.append(Finished(verdict, run.job_id))
            else:
                answers.append(Finished(Verdict(run.state), run.job_id))
        await work.commit(transaction)
    return answers, work.changes, work.with_dependents


async def release(session: Session, tokens: Sequence[UUID]) -> tuple[list[Attempt], Changes]:
    """See `Driver.release`."""
    if not tokens:
        return [], Changes()
    answers, changes, with_dependents = await repeated(lambda: _release(session, tokens))
    if with_dependents:
        await session.settle(with_dependents, changes)
    return answers, changes


async def _release(session: Session, tokens: Sequence[UUID]) -> tuple[list[Attempt], Changes, list[UUID]]:
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        locked, now = await lock(session, transaction, tokens, places=True)
        if now is None:
            await transaction.commit()
            return [UNKNOWN_ATTEMPT for _ in tokens], Changes(), []
        work = session.work(now)
        answers = []
        for token in tokens:
            run = locked.runs.get(token)
            answers.append(attempt_of(run))
            if run is not None and run.running:
                work.give_back(locked.row_to_return(run), run, RequeueCause.RELEASED)
        await work.commit(transaction)
    return answers, work.changes, work.with_dependents


async def attach(session: Session, attachments: Sequence[Attachment]) -> list[Attached]:
    """See `Driver.attach`."""
    if not attachments:
        return []
    return await repeated(lambda: _attach(session, attachments))


async def _attach(session: Session, attachments: Sequence[Attachment]) -> list[Attached]:
    statements = session.statements
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        locked, _ = await lock(session, transaction, [one.token for one in attachments], places=False)
        running = [run for run in locked.runs.values() if run.running]
        there: dict[tuple[UUID, str], Artifact] = {}
        if running:
            parameters = {"ids": array(run.job_id for run in running)}
            for record in await transaction.fetch(statements["read_attached"], parameters):
                there[record[0], record[1]] = artifact_of(record[1:])
        answers: list[Attached] = []
        written: dict[tuple[UUID, str], Any] = {}
        for one in attachments:
            run = locked.runs.get(one.token)
            replaced = None
            if run is not None and run.running:
                place = run.job_id, one.artifact.name
                before = there.get(place)
                if before != one.artifact:
                    replaced = None if before is None or before.location == one.artifact.location else before.location
                    there[place] = one.artifact
                    written[place] = artifact_record(run.job_id, one.artifact)
            answers.append(Attached(attempt_of(run), replaced))
        names = ["save_artifacts"] if written else []
        names += ["renew"] if running else []
        await transaction.commit(
            statements.all(*names),
            session.parameters(artifacts=encode([*written.values()]), tokens=array(run.token for run in running)),
        )
    return answers


async def cancel(session: Session, job_ids: Sequence[UUID]) -> tuple[list[Job | ComposerdError], Changes]:
    """See `Driver.cancel`."""
    if not job_ids:
        return [], Changes()
    answers, changes, with_dependents = await repeated(lambda: _cancel(session, job_ids))
    if with_dependents:
        await session.settle(with_dependents, changes)
    return answers, changes


async def _cancel(session: Session, job_ids: Sequence[UUID]) -> tuple[list[Job | ComposerdError], Changes, list[UUID]]:
    statements = session.statements
    parameters = session.parameters(ids=array(job_ids), places=False)
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        records = await transaction.begin(statements.all("lock_jobs", "read_jobs"), parameters)
        if not records:
            await transaction.commit()
            return [JobNotFound() for _ in job_ids], Changes(), []
        rows = {record[1]: locked_row_of(record) for record in records}
        dependents = {record[1]: record[-1] for record in records}
        runs: dict[UUID, Run] = {}
        if any(row.state == JobState.RUNNING.value for row in rows.values()):
            runs = {
                run.job_id: run for run in map(run_of, await transaction.fetch(statements["read_running"], parameters))
            }
        work = session.work(records[0][0])
        answers: list[Job | ComposerdError] = []
        for job_id in job_ids:
            row = rows.get(job_id)
            if row is None:
                answers.append(JobNotFound())
                continue
            if not row.ended:
                work.cancel(row, runs.get(job_id))
            if row.state == JobState.CANCELED.value:
                answers.append(job_of(row, dependents[job_id]))
            else:
                answers.append(JobEnded(state=row.state))
        await work.commit(transaction)
    return answers, work.changes, work.with_dependents


async def delete(session: Session, job_ids: Sequence[UUID]) -> list[Job | None | ComposerdError]:
    """See `Driver.delete`."""
    if not job_ids:
        return []
    return await repeated(lambda: _delete(session, job_ids))


async def _delete(session: Session, job_ids: Sequence[UUID]) -> list[Job | None | ComposerdError]:
    statements = session.statements
    parameters = session.parameters(ids=array(job_ids), places=False)
    async with session.connections.one() as connection:
        transaction = Transaction(connection)
        records = await transaction.begin(statements.all("lock_jobs", "read_jobs"), parameters)
        jobs: dict[UUID, tuple[Row, Job]] = {}
        for record in records:
            row = locked_row_of(record)
            jobs[row.id] = (row, job_of(row, record[-1]))
        needed: set[UUID] = set()
        if jobs:
            needed = {job_id for (job_id,) in await transaction.fetch(statements["needed"], parameters)}
        answers: list[Job | None | ComposerdError] = []
        gone: list[UUID] = []
        for job_id in job_ids:
            known = jobs.get(job_id)
            if known is None:
                answers.append(None)
            elif not known[0].ended or job_id in needed:
                answers.append(JobNotEnded())
            else:
                answers.append(known[1])
                gone.append(job_id)
                del jobs[job_id]
        await transaction.commit(statements["delete_jobs"] if gone else "", {"gone": array(gone)})
    return answers
