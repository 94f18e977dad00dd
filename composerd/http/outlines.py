"""Looks at a large submission before it is decoded.

Decoding builds every value before it checks how many there are, and nothing else runs in Python meanwhile. So what is
outside of args has to be small.
"""

import msgspec

from composerd.errors import InvalidContent
from composerd.http.schemas import MAX_BATCH

MAX_OUTSIDE = 4 * 1024 * 1024
"""The most bytes that a submission may have outside of args."""


class _Job(msgspec.Struct):
    args: msgspec.Raw = msgspec.Raw()


_Jobs = msgspec.defstruct(
    "_Jobs",
    [(f"job_{index}", _Job, None) for index in range(MAX_BATCH)],
    array_like=True,  # unlike a list, it has a most length, and an item beyond that ends the decoding
    forbid_unknown_fields=True,
)


class _Batch(msgspec.Struct):
    jobs: _Jobs = None  # type: ignore[valid-type]


_JOB = msgspec.json.Decoder(_Job)
_BATCH = msgspec.json.Decoder(_Batch)


def check_job(body: bytes | bytearray) -> None:
    """Raise `InvalidContent` if a submitted job is large outside of its args, and `msgspec.DecodeError`."""
    _check(body, _size(_JOB.decode(body)))


def check_batch(body: bytes | bytearray) -> None:
    """Raise `InvalidContent` if a batch has too many jobs or is large outside of args, and `msgspec.DecodeError`."""
    try:
        jobs = _BATCH.decode(body).jobs
    except msgspec.ValidationError as exc:
        if "of at most length" in str(exc):
            problem = f"Expected `array` of length <= {MAX_BATCH}"
            raise InvalidContent(field="jobs", problem=problem) from None
        raise
    args = 0
    for index in range(MAX_BATCH):
        job = getattr(jobs, f"job_{index}", None)
        if job is None:
            break
        args += _size(job)
    _check(body, args)


def _size(job: _Job) -> int:
    return len(memoryview(job.args))


def _check(body: bytes | bytearray, args: int) -> None:
    if len(body) - args > MAX_OUTSIDE:
        problem = f"has more than {MAX_OUTSIDE} bytes outside of args"
        raise InvalidContent(field="body", problem=problem, limit=MAX_OUTSIDE)
