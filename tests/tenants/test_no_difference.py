"""Random requests about what another tenant has, and about what never existed: nobody can tell the answers apart."""

import base64
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composerd.identity.roles import Role

from .foreign import (
    ATTEMPT_CALLERS,
    CALLERS,
    THEIR_SUBMITTER,
    THEIR_WORKER,
    Request,
    Theirs,
    requests_about_attempts,
    requests_about_channels,
    requests_about_jobs,
    requests_about_workers,
)
from .world import COMPOSER, OTHER, TENANT, WORKER, Answer, Caller, World, nobody


@pytest.fixture(scope="module")
def theirs(world: World) -> Theirs:
    """Let the other tenant have jobs and attempts in every state."""
    return Theirs.made(world)


def compare(world: World, caller: Caller | None, requests: Sequence[Request], theirs: str, never: str) -> None:
    """Send requests about something of the other tenant, and the same about what never existed, and compare."""
    pairs = []
    for request in requests:
        answers = [request.about(name).send(world, caller).without_ids for name in (theirs, never)]
        pairs.append([_without(answer, name) for answer, name in zip(answers, (theirs, never), strict=True)])
    for request, (about_theirs, about_never) in zip(requests, pairs, strict=True):
        assert about_theirs == about_never, (caller, request)


def _without(answer: Answer, name: str) -> Answer:
    """Return an answer without the name that its request has used: names of equal length are compared."""
    return answer._replace(body=answer.body.replace(name.encode(), b"NAME"))


def run(examples: int, test: Callable[..., None], **strategies: st.SearchStrategy[Any]) -> None:
    """Run a test with random values."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    limits = settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=checks
    )
    limits(given(**strategies)(test))()


def test_jobs(world: World, theirs: Theirs) -> None:
    """Nobody of another tenant can tell a job from one that never existed, and nobody changes it."""
    before = theirs.seen(world)

    def test(caller: Caller | None, request: Request, job_id: str, *, capitals: bool) -> None:
        never = nobody()
        compare(world, caller, [request], *(one.upper() if capitals else one for one in (job_id, never)))

    run(
        300,
        test,
        caller=st.sampled_from(CALLERS),
        request=requests_about_jobs(theirs),
        job_id=st.sampled_from(theirs.jobs),
        capitals=st.booleans(),
    )
    for one, other in zip(before, theirs.seen(world), strict=True):
        assert one.json == other.json


def test_attempts(world: World, theirs: Theirs) -> None:
    """No other identity, not even an administrator, can tell the token of an attempt from one that never existed."""
    before = theirs.seen(world)

    def test(caller: Caller | None, request: Request, token: str) -> None:
        compare(world, caller, [request], token, nobody())

    run(
        250,
        test,
        caller=st.sampled_from(ATTEMPT_CALLERS),
        request=requests_about_attempts(),
        token=st.sampled_from(theirs.tokens),
    )
    for one, other in zip(before, theirs.seen(world), strict=True):
        assert one.json == other.json


def test_workers(world: World) -> None:
    """Nobody of another tenant can tell a worker from one that never existed, and nothing that they say changes it."""

    def test(caller: Caller | None, requests: list[Request], *, described: bool) -> None:
        worker_id, never = world.register(THEIR_WORKER), nobody()
        if described:
            asking = {"types": ["never"], "arch": "x86_64", "worker_id": worker_id}
            world.sent(THEIR_WORKER, "POST", f"{WORKER}/jobs?wait=1ms", asking)
        compare(world, caller, requests, worker_id, never)
        if caller is not None:
            viewer = Caller(Role.ADMIN if caller.role is Role.ADMIN else Role.VIEWER, caller.tenant)
            own = [one for one in _listed(world, viewer) if one["channel"] == _channel(caller)]
            first, second = ([_without_id(one) for one in own if one["id"] == id] for id in (worker_id, never))
            assert first == second
        (kept,) = (one for one in _listed(world, THEIR_SUBMITTER) if one["id"] == worker_id)
        assert (kept["types"], kept["problem"]) == (["never"] if described else [], None)

    run(
        50,
        test,
        caller=st.sampled_from(CALLERS),
        requests=st.lists(requests_about_workers(), min_size=1, max_size=4),
        described=st.booleans(),
    )


def _listed(world: World, caller: Caller) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = world.sent(caller, "GET", f"{COMPOSER}/workers{cursor}")
        workers += page["items"]
        if "next" not in page:
            return workers
        cursor = f"?cursor={page['next']}"


def _channel(caller: Caller) -> str:
    return "" if caller.tenant is None else f"org-{caller.tenant}"


def _without_id(worker: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in worker.items() if name not in ("id", "seen_at")}


def test_channels(world: World, theirs: Theirs) -> None:
    """Nobody can tell the channel of another tenant from one that nobody has, nor its cursors from garbage."""

    def test(caller: Caller | None, request: Request) -> None:
        compare(world, caller, [request], f"org-{OTHER}", "org-never")

    run(100, test, caller=st.sampled_from(CALLERS), request=requests_about_channels(theirs))


@pytest.mark.parametrize("path", ["jobs", "jobs/{}/dependents", "jobs/{}/dependencies", "workers"])
def test_cursors(world: World, theirs: Theirs, path: str) -> None:
    """The cursor of another tenant is refused as garbage is, by each listing, also one of a listing of one's own."""
    caller = Caller(Role.SUBMITTER)
    own = world.submit(TENANT)
    for cursor in theirs.cursors:
        garbage = base64.urlsafe_b64encode(UUID(nobody()).bytes + uuid4().bytes)[: len(cursor)].decode()
        answers = [
            world.send(caller, "GET", f"{COMPOSER}/{path.replace('{}', own)}?cursor={one}") for one in (cursor, garbage)
        ]
        assert answers[0].error == (400, 39)
        assert answers[0].without_ids == answers[1].without_ids


def test_types_keys_and_request_ids(world: World, theirs: Theirs) -> None:
    """A type, an idempotency key and a request id that another tenant uses are as unused as new ones."""
    worker, submitter = Caller(Role.WORKER), Caller(Role.SUBMITTER)
    for body in ({"types": ["{}"], "arch": "x86_64"}, {"types": ["{}"], "arch": "x86_64", "worker_id": nobody()}):
        compare(world, worker, [Request("POST", f"{WORKER}/jobs?wait=1ms", body)], theirs.type, "type-x")
    request = Request("POST", f"{WORKER}/jobs?wait=1ms", {"types": ["never"], "arch": "x86_64", "request_id": "{}"})
    compare(world, worker, [request], theirs.request_id, nobody())
    for fields in ({"args": 1}, {"args": 2}):
        world.submit(OTHER, type="t", idempotency_key="theirs", args=1)
        keyed = Request("POST", f"{COMPOSER}/jobs", {"type": "t", "idempotency_key": "{}", **fields})
        compare(world, submitter, [keyed], "theirs", "unused")
        batch = Request("POST", f"{COMPOSER}/jobs/batch", {"jobs": [keyed.body]})
        compare(world, submitter, [batch], "theirs", "unused")
