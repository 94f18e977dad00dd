"""The fields of a job to submit, for type checkers, and their conversion to the protocol's JSON."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Required, TypedDict

from composerd_protocol.times import rfc3339


class JobFields(TypedDict, total=False):
    """The fields of a job to submit, besides its type and its args. A field that is left out or None has its default.

    A duration is a `timedelta`, or text as the protocol writes it: `300ms`, `20s`, `2m`, `1h` or `14d`.
    """

    arch: str | None
    """The architecture of the workers that may run the job; any by default."""
    channel: str | None
    """The channel of the job, which says who may see it; `""` by default."""
    dependencies: Sequence[str] | None
    """The ids of up to 1,000 jobs that have to end first; in a graph also the `ref`s of earlier jobs."""
    priority: int | None
    """The priority, from -100 to 100; jobs with a higher one run first. It is 0 by default."""
    not_before: datetime | timedelta | str | None
    """The earliest start: a time with a time zone, or a duration from now. Text is RFC 3339 or a duration."""
    timeout: timedelta | str | None
    """The longest time that one attempt may run; without a limit by default."""
    max_retries: int | None
    """The number of retries after a worker was lost, from 0 to 100; the server's setting by default."""
    retry_on_failure: int | None
    """The number of retries after a result with a `job_error`, from 0 to 100; 0 by default."""
    retry_backoff: timedelta | str | None
    """The pause before the first of these retries; each further one is twice as long, at most 1 h. 10 s by default."""
    on_dependency_failure: Literal["run", "fail"] | None
    """The consequence of a failed dependency: the job runs all the same (`run`, the default), or fails too (`fail`)."""
    idempotency_key: str | None
    """A key of this submission: another submission with the same key returns the job that exists, and makes none."""
    retention: timedelta | str | None
    """The time that the job is kept after its end; the server's setting by default. 0: until it is deleted."""


class GraphJob(JobFields, total=False):
    """A job of a graph to submit, as a dictionary."""

    type: Required[str]
    """The type of the job; workers name the types that they run."""
    args: Any
    """The args for the worker: any JSON; a `msgspec.Raw` is sent byte for byte."""
    ref: str | None
    """The name of the job within the graph, of 1 to 64 characters, for the `dependencies` of later ones; not a UUID."""


GRAPH_JOB = frozenset(GraphJob.__annotations__)
"""The names of the fields of a job of a graph."""

SINGLE_JOB = GRAPH_JOB - {"ref"}
"""The names of the fields of a job that is submitted alone."""


def submitted(job: Mapping[str, Any], names: frozenset[str] = GRAPH_JOB) -> dict[str, Any]:
    """Return the protocol's JSON of a job to submit, of which fields that are None are left out, except `args`.

    `names` are the names that its fields may have. Raises `TypeError` for another field and for a value of a wrong
    type, and `ValueError` for a time without a time zone and for a negative duration.
    """
    if not isinstance(job, Mapping):
        raise TypeError(f"a job of a graph must be a dictionary, and not {type(job).__name__}")
    fields: dict[str, Any] = {}
    for name, value in job.items():
        if name not in names:
            raise TypeError(f"a job has no field {name!r}; its fields are {', '.join(sorted(names))}")
        if value is not None or name == "args":
            convert = _CONVERSIONS.get(name)
            fields[name] = value if convert is None else convert(name, value)
    return fields


def duration(name: str, value: timedelta | str) -> str:
    """Return a duration as the protocol writes it; text is returned unchanged. `name` is for errors.

    Raises `TypeError` for a number, which has no unit, and `ValueError` for a negative duration.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, timedelta):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a timedelta, or text with a unit such as '90s', and not {kind}")
    if value < timedelta(0):
        raise ValueError(f"{name} must not be negative, and is {value}")
    seconds, microseconds = divmod(value // timedelta(microseconds=1), 1_000_000)
    return f"{seconds}.{microseconds:06d}s" if microseconds else f"{seconds}s"


def _time(name: str, value: datetime | timedelta | str) -> str:
    if not isinstance(value, datetime):
        return duration(name, value)
    if value.utcoffset() is None:
        raise ValueError(f"{name} must have a time zone, as datetime.now(UTC) and datetime.now().astimezone() have")
    return rfc3339(value.astimezone(UTC))


def _ids(name: str, value: Sequence[str]) -> list[str]:
    if isinstance(value, str | bytes):
        raise TypeError(f"{name} must be a list of ids, and not one {type(value).__name__}")
    return list(value)


_CONVERSIONS: Mapping[str, Callable[[str, Any], Any]] = {
    "dependencies": _ids,
    "not_before": _time,
    "timeout": duration,
    "retry_backoff": duration,
    "retention": duration,
}
