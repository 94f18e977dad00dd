"""The idempotency keys that the client makes, so that it can repeat a submission whose outcome is unknown."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from composerd_client.answers import Expected


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
    return {**job, "idempotency_key": f"composerd-client-{uuid.uuid4()}"}


def answer_to(job: Mapping[str, Any]) -> Expected:
    """Return what is expected as the answer to the submission of a job: a job with its key."""
    return Expected("Job", (200, 201), check=lambda answer: _difference([_KEY.decode(answer)], [job]))


def answer_to_all(jobs: Sequence[Mapping[str, Any]]) -> Expected:
    """Return what is expected as the answer to the submission of a graph: as many jobs, with their keys."""
    return Expected("JobList", (201,), check=lambda answer: _difference(_KEYS.decode(answer).items, jobs))


def _difference(answered: Sequence[_Key], jobs: Sequence[Mapping[str, Any]]) -> str | None:
    if [job["idempotency_key"] for job in jobs] == [job.idempotency_key for job in answered]:
        return None
    return "its jobs do not have the idempotency keys of those that were submitted"
