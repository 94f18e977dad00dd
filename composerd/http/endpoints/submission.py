"""Submitted jobs, from their fields as sent to the queue's values: checks, defaults, references within a batch. No I/O."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from composerd.errors import InvalidContent, UnknownDependency
from composerd.http.context import ApiOptions
from composerd.http.schemas import BatchJob, SubmitJob, is_word
from composerd.ids import new_id, parse_uuid
from composerd.models import NewJob, OnDependencyFailure
from composerd.settings import LONGEST
from composerd.units import parse_duration

_encode = msgspec.json.Encoder().encode


def one(job: SubmitJob, options: ApiOptions) -> NewJob:
    """A single job. Raises `InvalidContent`, `UnknownDependency`."""
    return _new_job(job, {}, options, "")


def batch(jobs: Sequence[BatchJob], options: ApiOptions) -> list[NewJob]:
    """The jobs of a batch, in order. Raises `InvalidContent`, `UnknownDependency`."""
    refs: dict[str, UUID] = {}
    new: list[NewJob] = []
    for index, job in enumerate(jobs):
        made = _new_job(job, refs, options, f"jobs[{index}].")
        new.append(made)
        if job.ref is None:
            continue
        if job.ref in refs:
            raise InvalidContent(field=f"jobs[{index}].ref", problem="used twice in the batch")
        if parse_uuid(job.ref) is not None:
            raise InvalidContent(field=f"jobs[{index}].ref", problem="a UUID")
        refs[job.ref] = made.id
    return new


def _new_job(job: SubmitJob | BatchJob, refs: Mapping[str, UUID], options: ApiOptions, where: str) -> NewJob:
    _check_words(job, where)
    args = bytes(job.args) if isinstance(job.args, msgspec.Raw) else None
    return NewJob(
        id=new_id(),
        type=job.type,
        arch=job.arch,
        channel=job.channel,
        args=args,
        dependencies=tuple([_dependency(named, refs, where) for named in job.dependencies]) if job.dependencies else (),
        priority=job.priority,
        not_before=None if job.not_before is None else _not_before(job.not_before, where),
        timeout=None if job.timeout is None else _positive(job.timeout, where + "timeout"),
        max_retries=options.max_retries if job.max_retries is None else job.max_retries,
        retry_on_failure=job.retry_on_failure,
        retry_backoff=_duration(job.retry_backoff, where + "retry_backoff"),
        on_dependency_failure=_RUN if job.on_dependency_failure == "run" else OnDependencyFailure.FAIL,
        idempotency_key=job.idempotency_key,
        fingerprint=b"" if job.idempotency_key is None else _fingerprint(job, args),
        retention=options.retention if job.retention is None else _duration(job.retention, where + "retention") or None,
    )


_RUN = OnDependencyFailure.RUN


def _check_words(job: SubmitJob | BatchJob, where: str) -> None:
    if (
        is_word(job.type)
        and is_word(job.channel)
        and (job.arch is None or is_word(job.arch))
        and (job.idempotency_key is None or is_word(job.idempotency_key))
    ):
        return
    for field in ("type", "arch", "channel", "idempotency_key"):
        if not is_word(getattr(job, field) or ""):
            raise InvalidContent(field=where + field, problem="white space or control characters")


def _dependency(named: str, refs: Mapping[str, UUID], where: str) -> UUID:
    job_id = refs.get(named) or parse_uuid(named)
    if job_id is None:
        raise UnknownDependency(id=named, field=f"{where}dependencies")
    return job_id


def _not_before(text: str, where: str) -> datetime | float:
    if not re.match(r"[0-9]{4}-", text):
        return _duration(text, where + "not_before")
    if not _RFC_3339.fullmatch(text):
        problem = f"{text[:40]!r} is not a time: write it with its zone, for example 2030-01-31T12:00:00Z"
        raise InvalidContent(field=where + "not_before", problem=problem)
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError as exc:
        raise InvalidContent(field=where + "not_before", problem=str(exc)) from None
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise InvalidContent(
            field=where + "not_before", problem=f"out of range: the years {_FIRST_YEAR} to {_LAST_YEAR}"
        )
    return time.astimezone(UTC)


_FIRST_YEAR, _LAST_YEAR = 1970, 9990
"""Years that every storage's clock has, in any time zone and with a backoff added."""

_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _positive(text: str, field: str) -> float:
    seconds = _duration(text, field)
    if seconds == 0:
        raise InvalidContent(field=field, problem="not longer than nothing")
    return seconds


def _duration(text: str, field: str) -> float:
    if text == "10s":
        return 10.0  # the default of a field that most jobs leave out
    try:
        seconds = parse_duration(text)
    except ValueError as exc:
        raise InvalidContent(field=field, problem=str(exc)) from None
    if seconds > LONGEST:
        raise InvalidContent(field=field, problem="longer than ten years")
    return seconds


def _fingerprint(job: SubmitJob | BatchJob, args: bytes | None) -> bytes:
    """Digest of what was submitted under a key, but the dependencies: the driver compares what they resolve to."""
    fields = {
        name: getattr(job, name)
        for name in SubmitJob.__struct_fields__
        if name not in ("args", "dependencies", "idempotency_key")
    }
    digest = hashlib.sha256(_encode(fields))
    digest.update(b"-" if args is None else b"+" + args)
    return digest.digest()
