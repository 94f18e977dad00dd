"""The form in which a result says that its job failed."""

import msgspec


class _Result(msgspec.Struct):
    job_error: msgspec.Raw = msgspec.Raw(b"null")


_RESULT = msgspec.json.Decoder(_Result)


def has_job_error(result: bytes) -> bool:
    """Return True if a result reports a failure: an object whose `job_error` is not null.

    `result` is valid JSON. If the key is repeated, the last one counts.
    """
    return result.lstrip()[:1] == b"{" and bytes(_RESULT.decode(result).job_error) != b"null"
