"""Looks at a large submission before it is decoded.

Decoding builds every value before it checks how many there are, and nothing else runs in Python meanwhile. So what is
outside of args has to be small, and dependencies are counted first.
"""

import msgspec

from composerd.errors import InvalidContent
from composerd.http.schemas import MAX_BATCH, MAX_DEPENDENCIES

MAX_OUTSIDE = 4 * 1024 * 1024
"""The most bytes that a submission may have outside of args."""

MAX_EDGES = 10_000
"""The most dependencies of all jobs of a submission together."""

MOST_COMMAS = MAX_DEPENDENCIES * 65
"""More commas than a job's dependencies can have, with a `ref` of 64 characters for each."""


class _Job(msgspec.Struct):
    args: msgspec.Raw = msgspec.Raw()
    dependencies: msgspec.Raw = msgspec.Raw(b"[]")


_Jobs = msgspec.defstruct(
    "_Jobs",
    [(f"job_{index}", _Job, None) for index in range(MAX_BATCH)],
    array_like=True,  # unlike a list, it has a most length, and an item beyond that ends the decoding
    forbid_unknown_fields=True,
)


class _Batch(msgspec.Struct):
    jobs: _Jobs = None  # type: ignore[valid-type]


_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_JOB = msgspec.json.Decoder(_Job)
_BATCH = msgspec.json.Decoder(_Batch)


def check_job(body: bytes | bytearray) -> None:
    """Raise `InvalidContent` if a submitted job is large outside of its args, and `msgspec.DecodeError`."""
    job = _JOB.decode(body)
    _edges(job, "dependencies")
    _check(body, _size(job))


def check_batch(body: bytes | bytearray) -> None:
    """Raise `InvalidContent` if a batch has too many jobs or dependencies, or is large outside of args.

    Raises `msgspec.DecodeError` too.
    """
    try:
        jobs = _BATCH.decode(body).jobs
    except msgspec.ValidationError as exc:
        if "of at most length" in str(exc):
            problem = f"Expected `array` of length <= {MAX_BATCH}"
            raise InvalidContent(field="jobs", problem=problem) from None
        raise
    args = edges = 0
    for index in range(MAX_BATCH):
        job = getattr(jobs, f"job_{index}", None)
        if job is None:
            break
        args += _size(job)
        edges += _edges(job, f"jobs[{index}].dependencies")
        if edges > MAX_EDGES:
            problem = f"must not have more than {MAX_EDGES} dependencies together"
            raise InvalidContent(field="jobs", problem=problem, limit=MAX_EDGES)
    _check(body, args)


def _size(job: _Job) -> int:
    return len(memoryview(job.args))


def _edges(job: _Job, field: str) -> int:
    """Return the number of dependencies of a job. Raises `InvalidContent` if it has too many."""
    text = bytes(job.dependencies)
    if text[:1] != b"[":
        return 0  # decoding finds the error
    edges = MAX_DEPENDENCIES + 1 if text.count(b",") > MOST_COMMAS else len(_LIST.decode(text))
    if edges > MAX_DEPENDENCIES:
        raise InvalidContent(field=field, problem=f"Expected `array` of length <= {MAX_DEPENDENCIES}")
    return edges


def _check(body: bytes | bytearray, args: int) -> None:
    if len(body) - args > MAX_OUTSIDE:
        problem = f"has more than {MAX_OUTSIDE} bytes outside of args"
        raise InvalidContent(field="body", problem=problem, limit=MAX_OUTSIDE)
