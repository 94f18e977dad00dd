"""Submitted jobs: checks their fields, fills in defaults, and resolves references within a batch. No I/O."""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from composerd.errors import InvalidContent, UnknownDependency
from composerd.http.bodies import IN_A_THREAD
from composerd.http.schemas import NOT_A_WORD, BatchJob, SubmitJob
from composerd.http.scope import own_channel
from composerd.identity.values import Identity
from composerd.ids import new_id, parse_uuid
from composerd.models import NewJob, OnDependencyFailure
from composerd.settings import MAX_DURATION, Settings
from composerd.slices import Slices
from composerd_protocol.units import format_duration, parse_duration
from composerd_protocol.words import is_word

_encode = msgspec.json.Encoder().encode


def one(job: SubmitJob, settings: Settings, submitter: Identity) -> NewJob:
    """Return the job to store for a single submitted job, with a new id and the server's defaults.

    Raises `InvalidContent` and `NotAllowed` with the name of the field, and `UnknownDependency` for a dependency that
    is not a UUID.
    """
    return _new_job(job, {}, settings, submitter, "")


async def batch(jobs: Sequence[BatchJob], settings: Settings, submitter: Identity, slices: Slices) -> list[NewJob]:
    """Return the jobs to store for a batch, in its order. It works in slices, and in a thread on large args.

    A dependency that is the `ref` of an earlier job of the batch becomes the id of that job. Raises `InvalidContent`
    and `NotAllowed` with the path of the field, such as `jobs[3].ref`, and `UnknownDependency`.
    """
    refs: dict[str, UUID] = {}
    new: list[NewJob] = []
    for index, job in enumerate(jobs):
        where = f"jobs[{index}]."
        if isinstance(job.args, msgspec.Raw) and len(memoryview(job.args)) >= IN_A_THREAD:
            stored = await asyncio.to_thread(_new_job, job, refs, settings, submitter, where)
        else:
            stored = _new_job(job, refs, settings, submitter, where)
            await slices.pause()
        new.append(stored)
        if job.ref is None:
            continue
        if job.ref in refs:
            raise InvalidContent(field=f"jobs[{index}].ref", problem="must be unique in the batch")
        if parse_uuid(job.ref) is not None:
            raise InvalidContent(field=f"jobs[{index}].ref", problem="must not be a UUID")
        refs[job.ref] = stored.id
    return new


def _new_job(
    job: SubmitJob | BatchJob, refs: Mapping[str, UUID], settings: Settings, submitter: Identity, where: str
) -> NewJob:
    """Return the job to store. `where` is the path of the job in the body, for errors."""
    _check_words(job, where)
    args = bytes(job.args) if isinstance(job.args, msgspec.Raw) else None
    return NewJob(
        id=new_id(),
        type=job.type,
        arch=job.arch,
        channel=own_channel(job.channel, submitter, where),
        args=args,
        dependencies=tuple([_dependency(named, refs, where) for named in job.dependencies]) if job.dependencies else (),
        priority=job.priority or 0,
        not_before=None if job.not_before is None else _not_before(job.not_before, where),
        timeout=None if job.timeout is None else _positive(job.timeout, where + "timeout"),
        max_retries=settings.max_retries if job.max_retries is None else job.max_retries,
        retry_on_failure=job.retry_on_failure or 0,
        retry_backoff=_RETRY_BACKOFF
        if job.retry_backoff is None
        else _duration(job.retry_backoff, where + "retry_backoff"),
        on_dependency_failure=job.on_dependency_failure or _RUN,
        idempotency_key=job.idempotency_key,
        fingerprint=b"" if job.idempotency_key is None else _fingerprint(job, args, submitter),
        retention=(settings.retention or None) if job.retention is None else _retention(job.retention, settings, where),
    )


_RUN = OnDependencyFailure.RUN

_LEFT_OUT = {"channel": "", "priority": 0, "retry_on_failure": 0, "retry_backoff": "10s", "on_dependency_failure": _RUN}
"""The values of fields that are left out, other than None."""

_RETRY_BACKOFF = parse_duration(str(_LEFT_OUT["retry_backoff"]))


def _check_words(job: SubmitJob | BatchJob, where: str) -> None:
    if (
        is_word(job.type)
        and (job.channel is None or is_word(job.channel))
        and (job.arch is None or is_word(job.arch))
        and (job.idempotency_key is None or is_word(job.idempotency_key))
    ):
        return
    for field in ("type", "arch", "channel", "idempotency_key"):
        if not is_word(getattr(job, field) or ""):
            raise InvalidContent(field=where + field, problem=NOT_A_WORD)


def _dependency(named: str, refs: Mapping[str, UUID], where: str) -> UUID:
    job_id = refs.get(named) or parse_uuid(named)
    if job_id is None:
        raise UnknownDependency(id=named, field=f"{where}dependencies")
    return job_id


def _not_before(text: str, where: str) -> datetime | float:
    if not re.match(r"[0-9]{4}-", text):
        return _duration(text, where + "not_before")
    if not _RFC_3339.fullmatch(text):
        problem = f"{text[:40]!r} is not a time with a time zone: write for example 2030-01-31T12:00:00Z"
        raise InvalidContent(field=where + "not_before", problem=problem)
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError as exc:
        raise InvalidContent(field=where + "not_before", problem=str(exc)) from None
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise InvalidContent(field=where + "not_before", problem=f"must be in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return time.astimezone(UTC)


_FIRST_YEAR, _LAST_YEAR = 1970, 9990
"""Years that every storage can represent, in any time zone and with a retry backoff added."""

_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _positive(text: str, field: str) -> float:
    seconds = _duration(text, field)
    if seconds == 0:
        raise InvalidContent(field=field, problem="must be greater than 0")
    return seconds


def _retention(text: str, settings: Settings, where: str) -> float | None:
    """Return the retention that a job asks for; None if it is to be kept until it is deleted."""
    seconds = _duration(text, where + "retention")
    limit = settings.max_retention
    if limit and not 0 < seconds <= limit:
        problem = f"must be greater than 0 and at most {format_duration(limit)}"
        raise InvalidContent(field=where + "retention", problem=problem, limit=format_duration(limit))
    return seconds or None


def _duration(text: str, field: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as exc:
        raise InvalidContent(field=field, problem=str(exc)) from None
    if seconds > MAX_DURATION:
        raise InvalidContent(field=field, problem="must not be longer than ten years")
    return seconds


def _fingerprint(job: SubmitJob | BatchJob, args: bytes | None, submitter: Identity) -> bytes:
    """Return a digest of a job submitted under an idempotency key.

    It leaves out the dependencies, because the driver compares the job ids that they resolve to.
    """
    fields = {
        name: _LEFT_OUT.get(name) if (value := getattr(job, name)) is None else value
        for name in SubmitJob.__struct_fields__
        if name not in ("args", "dependencies", "idempotency_key")
    }
    if job.channel == submitter.channel:
        fields["channel"] = _LEFT_OUT["channel"]
    digest = hashlib.sha256(_encode(fields))
    digest.update(b"-" if args is None else b"+")
    digest.update(args or b"")
    return digest.digest()
