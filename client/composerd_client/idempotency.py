"""Submissions, and the idempotency keys that the client makes, so that it can repeat one whose outcome is unknown."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from composerd_client.answers import Expected
from composerd_client.connection import LARGEST_PAYLOAD, Connection
from composerd_client.errors import ProxyAnswered
from composerd_client.repeating import may_pass


class _Key(msgspec.Struct):
    idempotency_key: str | None


class _Keys(msgspec.Struct):
    items: list[_Key]


_KEY = msgspec.json.Decoder(_Key)
_KEYS = msgspec.json.Decoder(_Keys)


def keyed(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job to submit with an idempotency key: its own, or a new one that says that it is the client's."""
    if job.get("idempotency_key") is not None:
        return dict(job)
    return {**job, "idempotency_key": f"composerd-client-{secrets.token_hex(16)}"}


def answer_to(job: Mapping[str, Any]) -> Expected:
    """Return what is expected as the answer to the submission of a job: a job with its key."""
    return Expected("Job", (200, 201), check=lambda answer: _difference([_KEY.decode(answer)], [job]))


def answer_to_all(jobs: Sequence[Mapping[str, Any]]) -> Expected:
    """Return what is expected as the answer to the submission of a graph: as many jobs, with their keys."""
    return Expected("JobList", (201,), check=lambda answer: _difference(_KEYS.decode(answer).items, jobs))


async def post(connection: Connection, path: str, expected: Expected, body: bytes) -> bytes:
    """Send a submission whose jobs have keys, and return the answer; repeat it if its outcome is unknown."""
    try:
        # With a key the answer may be an ended job, with its result.
        answer = await connection.request("POST", path, expected, body=body, repeat=True, largest=LARGEST_PAYLOAD)
    except ProxyAnswered as exc:
        if may_pass(exc):
            raise
        reason = f"the submission of {len(body)} bytes was refused: {exc.reason}"
        raise ProxyAnswered(exc.status, reason, exc.proxy) from exc
    return answer.body


def _difference(answered: Sequence[_Key], jobs: Sequence[Mapping[str, Any]]) -> str | None:
    if [job["idempotency_key"] for job in jobs] == [job.idempotency_key for job in answered]:
        return None
    return "its jobs do not have the idempotency keys of those that were submitted"
