"""Times of the answers about what another tenant has, and about what never existed: they tell nothing either."""

import random
import statistics
import time
from collections.abc import Sequence

import pytest

from composerd.identity.roles import Role

from .foreign import THEIR_WORKER, Request
from .world import COMPOSER, OTHER, WORKER, Caller, World, nobody

ROUNDS = 100
"""Number of requests of each kind."""

TELLING = 1.5
"""The ratio of two medians that would tell something: ids are random, so nobody can ask often enough for less."""

TRIES = 4
"""Number of measurements of which one has to tell nothing."""

SUBMITTER = Caller(Role.SUBMITTER)

REQUESTS = {
    "getJob": (SUBMITTER, Request("GET", f"{COMPOSER}/jobs/{{}}")),
    "getJobResult": (SUBMITTER, Request("GET", f"{COMPOSER}/jobs/{{}}/result")),
    "cancelJob": (SUBMITTER, Request("POST", f"{COMPOSER}/jobs/{{}}/cancel")),
    "deleteJob": (SUBMITTER, Request("DELETE", f"{COMPOSER}/jobs/{{}}")),
    "listDependents": (SUBMITTER, Request("GET", f"{COMPOSER}/jobs/{{}}/dependents")),
    "getArtifact": (SUBMITTER, Request("GET", f"{COMPOSER}/jobs/{{}}/artifacts/log")),
    "whyJob": (SUBMITTER, Request("GET", f"{COMPOSER}/jobs/{{}}/why")),
    "submitJob": (SUBMITTER, Request("POST", f"{COMPOSER}/jobs", {"type": "t", "dependencies": ["{}"]})),
    "GetJob": (Caller(Role.WORKER), Request("GET", f"{WORKER}/jobs/{{}}")),
    "UpdateJob": (Caller(Role.WORKER), Request("PATCH", f"{WORKER}/jobs/{{}}", {"result": 1})),
    "UploadJobArtifact": (Caller(Role.WORKER), Request("PUT", f"{WORKER}/jobs/{{}}/artifacts/log", b"text")),
    "postWorkerStatus": (Caller(Role.WORKER), Request("POST", f"{WORKER}/workers/{{}}/status")),
}


def _objects(world: World, about: str) -> Sequence[str]:
    """Return things of the other tenant: a small one, and of jobs also one that takes long to read."""
    if about in ("GetJob", "UpdateJob", "UploadJobArtifact"):
        return [world.claim(THEIR_WORKER)["location"].rpartition("/")[2]]
    if about == "postWorkerStatus":
        return [world.worker(THEIR_WORKER)]
    hub = world.submit(OTHER)
    for _ in range(10):
        batch = {"jobs": [{"type": "t", "dependencies": [hub]} for _ in range(100)]}
        world.sent(Caller(Role.SUBMITTER, OTHER), "POST", f"{COMPOSER}/jobs/batch", batch)
    return [world.ended(OTHER), hub]


def _ratio(world: World, caller: Caller, request: Request, theirs: str) -> float:
    """Return how many times as long one of the two answers takes, by the medians of requests in random order."""
    took: dict[bool, list[float]] = {True: [], False: []}
    for is_theirs in random.sample([True, False] * ROUNDS, 2 * ROUNDS):
        named = request.about(theirs if is_theirs else nobody())
        began = time.perf_counter()
        answer = named.send(world, caller)
        took[is_theirs].append(time.perf_counter() - began)
        assert answer.status in (400, 404)
    shorter, longer = sorted(statistics.median(times) for times in took.values())
    return longer / shorter


@pytest.mark.parametrize("about", REQUESTS)
def test_times(world: World, about: str) -> None:
    """A request about another tenant's object takes as long as one about an object that never existed."""
    caller, request = REQUESTS[about]
    for theirs in _objects(world, about):
        ratios: list[float] = []
        while len(ratios) < TRIES and not (ratios and ratios[-1] < TELLING):  # another process may have been in the way
            ratios.append(_ratio(world, caller, request, theirs))
        assert ratios[-1] < TELLING, ratios
