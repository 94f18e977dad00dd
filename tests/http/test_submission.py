"""Submitted jobs: what a field means that is left out, or null."""

from collections.abc import Mapping

import msgspec
import pytest

from composerd.http.endpoints import submission
from composerd.http.schemas import SubmitJob
from composerd.identity.values import ANYBODY
from composerd.settings import load

DECODER = msgspec.json.Decoder(SubmitJob)
NULLABLE = sorted(set(SubmitJob.__struct_fields__) - {"type", "args", "idempotency_key"})


def stored(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of the job that is stored for a submitted one, without its id."""
    job = submission.one(DECODER.decode(msgspec.json.encode(fields)), load({}, {}, None), ANYBODY)
    return {name: getattr(job, name) for name in job.__struct_fields__ if name != "id"}


@pytest.mark.parametrize("name", NULLABLE)
def test_null_is_as_if_left_out(name: str) -> None:
    """A generated client may send null for each field that it was not given; a repetition may as well leave it out."""
    plain = {"type": "a", "idempotency_key": "k"}
    assert stored(plain | {name: None}) == stored(plain)


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        ({}, "2f63bfb57d4b8ba6f95016c4f70f3e96c60728923fae2c6198908a1a6954f514"),
        (
            {
                "arch": "x",
                "channel": "c",
                "args": {"n": 1},
                "priority": 5,
                "not_before": "5s",
                "timeout": "1h",
                "max_retries": 3,
                "retry_on_failure": 2,
                "retry_backoff": "1m",
                "on_dependency_failure": "fail",
                "retention": "2d",
            },
            "2ca076b38bd8eb7b33e0bffeba4bd16b420d9b89f4aff1ff00eb31ebb0a722f8",
        ),
    ],
)
def test_the_fingerprint_of_a_job_stays(fields: Mapping[str, object], digest: str) -> None:
    """A submission that is repeated after an upgrade is still the same: the digest is in storages."""
    fingerprint = stored({"type": "a", "idempotency_key": "k", **fields})["fingerprint"]
    assert isinstance(fingerprint, bytes)
    assert fingerprint.hex() == digest
