"""Begins attempts at ready jobs (`Driver.claim`). One SQL function chooses the jobs and begins the attempts."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from composerd.driver import Batch
from composerd.driver.tokens import hashed
from composerd.errors import DriverError
from composerd.models import Claim, Claimed, Key, News
from composerd_postgres.db.connection import Rows
from composerd_postgres.jobs.clock import ATTEND_EVERY
from composerd_postgres.news.changes import ReadyPosition
from composerd_postgres.session import Session
from composerd_postgres.sql.payloads import decode_payloads
from composerd_postgres.sql.statements import encode

CONTENDED = 50
"""Number of times that a claim is tried in all while others that may not take the ready jobs have them locked."""

CONTENDED_PAUSE = 0.002
"""Pause in seconds before a contended claim is tried again."""

CLASSES = 32
"""Number of different sets of keys that one statement serves. For each set it reads through all of them."""


class ClaimRound(NamedTuple):
    """The answers of one statement to the requests that it was given, from the first on."""

    rows: Rows
    """The jobs that were handed out. Their `request` is the number of the request, from 1."""
    answered: int
    """The number of requests that were answered, with a job or with None."""
    contended: bool
    """True if the next request found only ready jobs that others have locked."""
    full: bool
    """True if the next request was not tried, because the args of the jobs have reached `max_bytes`."""


async def claim(session: Session, requests: Sequence[Claim], max_bytes: int) -> Batch[Claimed | None]:
    """See `Driver.claim`.

    A request that finds only locked jobs does not delay the others: it is tried again after them. If the jobs stay
    locked, it is answered None, and the news say that there is a ready job, so that the request is made again.
    """
    answers: dict[int, Claimed | None] = {}
    due_in: float | None = None
    rest = list(range(len(requests)))
    locked_out: list[int] = []
    full = False
    for _ in range(CONTENDED):
        while rest and not full:
            round_ = await _claim(session, [requests[nth] for nth in rest], max_bytes)
            answers.update(dict.fromkeys(rest[: round_.answered]))
            bodies = await decode_payloads([row.args for row in round_.rows])
            for row, args in zip(round_.rows, bodies, strict=True):
                if row.lost:  # its attempt stands, so that it can be released
                    raise DriverError(f"the args of the job {row.job_id} cannot be found in the database")
                key = Key(row.channel, row.type, row.arch or None)
                nth = rest[row.request - 1]
                answers[nth] = Claimed(
                    requests[nth].token,
                    row.job_id,
                    key,
                    args,
                    tuple(row.dependencies),
                    row.attempt_number,
                    row.confirmed,
                )
                max_bytes -= len(args or b"")
                if row.due_in is not None and (due_in is None or row.due_in < due_in):
                    due_in = row.due_in
            rest = rest[round_.answered :]
            full = bool(answers) and (round_.full or max_bytes <= 0)
            if round_.contended:
                keys = set(requests[rest[0]].keys)
                while rest and set(requests[rest[0]].keys) == keys:
                    locked_out.append(rest.pop(0))
        if not locked_out or full:
            break
        rest, locked_out = locked_out, []
        await asyncio.sleep(CONTENDED_PAUSE)
    count = max(answers) + 1 if full else len(requests)
    ready = {}
    for nth in locked_out + rest:
        if nth < count:
            ready.update(dict.fromkeys(requests[nth].keys, 1))
    if due_in is not None:
        session.expires_in(due_in)
        due_in = min(due_in, ATTEND_EVERY)
    return Batch([answers.get(nth) for nth in range(count)], News(ready=ready, due_in=due_in))


async def _claim(session: Session, requests: Sequence[Claim], max_bytes: int) -> ClaimRound:
    """Make the claims that one statement can serve, from the first on."""
    now = asyncio.get_running_loop().time
    classes: dict[frozenset[Key], int] = {}
    requested: list[dict[str, Any]] = []
    for request in requests:
        keys = frozenset(request.keys)
        if keys not in classes:
            if len(classes) == CLASSES:
                break
            classes[keys] = len(classes)
        requested.append(
            {
                "token_hash": hashed(request.token),
                "class": classes[keys],
                "lease": request.lease,
                "handover": request.handover,
                "worker": request.worker_id,
            }
        )
    taken: dict[Key, ReadyPosition] = {}
    running = session.hints.begin(classes, now())
    try:
        wanted = []
        for keys, number in classes.items():
            for key in keys:
                rank, position = running.begins[key]
                row = {
                    "channel": key.channel,
                    "type": key.type,
                    "arch": key.arch or "",
                    "rank": rank,
                    "place": position,
                }
                wanted.append({"class": number, **row})
        parameters = {
            "shift": session.shift,
            "requests": encode(requested),
            "wanted": encode(wanted),
            "most": max_bytes,
        }
        *rows, end = await session.connections.fetch(session.statements["claim"], parameters)
        for row in rows:
            if row.fresh:
                taken[Key(row.channel, row.type, row.arch or None)] = (row.rank, row.position)
    finally:
        session.hints.end(running, taken, now())
    full = end.request < len(requested) and not end.contended
    return ClaimRound(rows, end.request, end.contended, full)
