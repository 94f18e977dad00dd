"""The values that the Python client returns, and the names under which they can be imported."""

import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from composerd import models
from composerd.http import schemas
from composerd_client import (
    Artifact,
    Job,
    JobState,
    KnownWorker,
    LocalFault,
    OutcomeUnknown,
    ProxyAnswered,
    RequestFailed,
    ServerUnreachable,
    UnexpectedAnswer,
    Why,
)
from composerd_client.connection import decoded

TIMES = ("queued_at", "not_before", "started_at", "finished_at", "expires_at")

JOB: dict[str, Any] = dict.fromkeys(TIMES, "2026-01-31T12:00:00.000001Z")
JOB |= {"kind": "Job", "href": "/api/composer/v1/jobs/1", "id": "1", "type": "a", "arch": None, "channel": ""}
JOB |= {"state": "ready", "priority": 0, "retries": 0, "canceled": False, "worker_id": None, "idempotency_key": None}


def job(**changes: Any) -> Job:
    """Return a job as the client decodes it."""
    return decoded(msgspec.json.encode({**JOB, **changes}), msgspec.json.Decoder(Job))


@pytest.mark.parametrize(
    ("value", "sent"),
    [(Job, schemas.Job), (Why, schemas.JobWhy), (KnownWorker, schemas.Worker), (Artifact, schemas.Artifact)],
)
def test_the_fields_are_those_of_the_server(value: type[msgspec.Struct], sent: type[msgspec.Struct]) -> None:
    """A value has every field that the server sends, and no other."""
    assert _fields(value) | {"kind", "href"} == _fields(sent)


def _fields(struct: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(struct)}


@pytest.mark.parametrize(
    "error",
    [
        RequestFailed(404, {"id": "32", "reason": "Job not found", "details": {"id": "1"}, "operation_id": "2"}),
        OutcomeUnknown(504, {"id": "40"}),
        ProxyAnswered(502, "502 from a proxy", "nginx"),
        ServerUnreachable("it cannot be reached", sent=False),
        LocalFault("no disk"),
    ],
)
def test_errors_and_values_go_to_other_processes(error: Exception) -> None:
    """Errors and values can be pickled and copied, with all that they have."""
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(copied), str(copied), copied.args, vars(copied)) == (
            type(error),
            str(error),
            error.args,
            vars(error),
        )
    ended = job(state="newer", result=[1])
    assert pickle.loads(pickle.dumps(ended)) == copy.deepcopy(ended) == ended


def test_times_have_a_time_zone() -> None:
    """Times are datetimes in UTC, to the microsecond, and one without a time zone is not an answer of composerd."""
    decoded_job = job()
    for name in TIMES:
        time = getattr(decoded_job, name)
        assert time == datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)
        assert time.utcoffset() == timedelta(0)
        with pytest.raises(UnexpectedAnswer, match=name):
            job(**{name: "2026-01-31T12:00:00"})


def test_states_are_those_of_the_server() -> None:
    """The client knows all states of the server, which of them are ends, and compares them with their text."""
    assert {state.value: state.ended for state in JobState} == {state.value: state.ended for state in models.JobState}
    assert job(state="failed").state is JobState.FAILED
    assert job(state="failed").state == "failed"
    assert job(state="failed").ended
    assert not job().ended


def test_a_state_of_a_newer_server() -> None:
    """A state that the client does not know keeps its text, is no end, and is no member that is iterated over."""
    state = job(state="paused").state
    assert (state, str(state), state.name, state.ended) == ("paused", "paused", "UNKNOWN", False)
    assert isinstance(state, JobState)
    assert len(JobState) == 6
    why = b'{"id":"1","state":"paused","reason":"","blocked_by":[],"delayed_until":null,"workers":null,"ahead":null}'
    assert str(decoded(why, msgspec.json.Decoder(Why)).state) == "paused"
    with pytest.raises(ValueError, match="5 is not a valid JobState"):
        JobState(5)  # type: ignore[arg-type]
