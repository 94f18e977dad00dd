"""The fields of a job to submit: their conversion to the protocol's JSON, and what is refused before it is sent."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from composerd.http import schemas
from composerd_client.submitted_job import GraphJob, submitted
from composerd_protocol.units import parse_duration

PROTOCOL = Path(__file__).parents[2] / "docs" / "reference" / "protocol.md"


def test_the_fields_are_those_of_the_protocol() -> None:
    """Each field that the protocol documents and the server takes has a type, and no other has."""
    section = PROTOCOL.read_text(encoding="utf-8").split("### A submitted job\n")[1].split("\n### ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    fields = {field.name for field in msgspec.structs.fields(schemas.BatchJob)}
    assert set(GraphJob.__annotations__) == documented == fields


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (timedelta(hours=2), "7200s"),
        (timedelta(0), "0s"),
        (timedelta(milliseconds=300), "0.300000s"),
        (timedelta(days=400_000, microseconds=1), "34560000000.000001s"),
        ("2m", "2m"),
    ],
)
@pytest.mark.parametrize("field", ["timeout", "retry_backoff", "retention", "not_before"])
def test_durations(field: str, given: Any, sent: str) -> None:
    """A duration is sent to the microsecond, in the protocol's form; text is sent as it is."""
    assert submitted({"type": "a", field: given}) == {"type": "a", field: sent}
    assert parse_duration(sent) == pytest.approx(given.total_seconds() if isinstance(given, timedelta) else 120)


def test_times() -> None:
    """A time is sent in UTC with microseconds, whatever its time zone is."""
    for time in (
        datetime(2030, 1, 31, 12, tzinfo=UTC),
        datetime(2030, 1, 31, 13, 30, tzinfo=timezone(timedelta(hours=1, minutes=30))),
    ):
        assert submitted({"not_before": time}) == {"not_before": "2030-01-31T12:00:00.000000Z"}
    assert submitted({"not_before": "2030-01-31T12:00:00Z"}) == {"not_before": "2030-01-31T12:00:00Z"}


def test_fields_that_are_none() -> None:
    """Fields that are None are left out, except `args`, which may be null."""
    assert submitted({"type": "a", "args": None, "arch": None, "timeout": None}) == {"type": "a", "args": None}


@pytest.mark.parametrize(
    ("field", "error", "message"),
    [
        ({"prioriti": 1}, TypeError, "a job has no field 'prioriti'; its fields are arch, args, channel"),
        ({"timeout": 90}, TypeError, "timeout must be a timedelta, or text with a unit such as '90s', and not int"),
        ({"retention": True}, TypeError, "not bool"),
        ({"not_before": 1.5}, TypeError, "not_before must be .* not float"),
        ({"timeout": timedelta(seconds=-1)}, ValueError, "timeout must not be negative"),
        ({"not_before": datetime(2030, 1, 31)}, ValueError, "not_before must have a time zone, as"),  # noqa: DTZ001
        ({"dependencies": "an-id"}, TypeError, "dependencies must be a list of ids"),
    ],
)
def test_what_is_refused(field: dict[str, Any], error: type[Exception], message: str) -> None:
    """A misspelled field, a number without a unit, a time without a zone and a lone id are errors that say so."""
    with pytest.raises(error, match=message):
        submitted({"type": "a", **field})
