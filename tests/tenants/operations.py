"""The operations: of each, a request for something of a tenant, and the answers to it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from composerd.identity.roles import Role

from .world import COMPOSER, WORKER, Answer, Caller, World, nobody

NOTHING = "nothing"
"""Stands for a tenant that has nothing."""

Ask = Callable[[World, Caller | None, str], Answer]
"""Sends a request about something of a tenant for somebody, and returns the answer."""


class Operation(NamedTuple):
    """One operation."""

    about: str
    """The object that the request names: `job`, `attempt`, `worker` (as its path does), `channel` or nothing."""
    ask: Ask
    status: int
    """The status of the answer if it is granted."""
    absent: tuple[int, int] | None = None
    """The status and the number of the error for what does not exist; None if the answer is then an empty list."""
    for_admins: bool = True
    """True if what belongs to another tenant exists for administrators."""
    has: Callable[[Answer, World, str], bool] | None = None
    """Returns True if the list in the answer has what is the tenant's."""


def _simple(path: str) -> Operation:
    return Operation("", lambda world, caller, _: world.send(caller, "GET", path), 200)


def _job(make: Callable[[World, str], str], method: str, of_job: str = "", status: int = 200) -> Operation:
    def ask(world: World, caller: Caller | None, tenant: str) -> Answer:
        job_id = nobody() if tenant == NOTHING else make(world, tenant)
        return world.send(caller, method, f"{COMPOSER}/jobs/{job_id}{of_job}")

    return Operation("job", ask, status, (404, 32))


def _submitted(world: World, tenant: str) -> str:
    return world.submit(tenant)


def _canceled(world: World, tenant: str) -> str:
    job_id = world.submit(tenant)
    world.sent(Caller(Role.SUBMITTER, tenant), "POST", f"{COMPOSER}/jobs/{job_id}/cancel")
    return job_id


def _reading(of_job: str = "") -> Operation:
    return _job(World.ended, "GET", of_job)


def _attempt(method: str, of_attempt: str = "", body: Any = None) -> Operation:
    def ask(world: World, caller: Caller | None, tenant: str) -> Answer:
        location = f"{WORKER}/jobs/{uuid4()}"
        if tenant != NOTHING:
            location = world.claim(_owner(caller, tenant))["location"]
        return world.send(caller, method, location + of_attempt, body)

    return Operation("attempt", ask, 200, (404, 5), for_admins=False)


def _owner(caller: Caller | None, tenant: str) -> Caller:
    """Return who owns a tenant's attempts and workers that somebody asks about: the caller, if that may be."""
    if caller is not None and caller.tenant == tenant and caller.role in (Role.WORKER, Role.ADMIN):
        return caller
    return Caller(Role.WORKER, tenant)


def _worker(method: str, of_worker: str, status: int, absent: tuple[int, int] | None) -> Operation:
    def ask(world: World, caller: Caller | None, tenant: str) -> Answer:
        worker_id = nobody() if tenant == NOTHING else world.register(_owner(caller, tenant))
        return world.send(caller, method, f"{WORKER}/workers/{worker_id}{of_worker}")

    return Operation("worker", ask, status, absent, for_admins=False)


def _request_job(world: World, caller: Caller | None, tenant: str) -> Answer:
    type = world.type()
    if tenant != NOTHING:
        world.submit(tenant, type=type)
    body = {"types": [type], "arch": "x86_64", "channel": f"org-{tenant}"}
    return world.send(caller, "POST", f"{WORKER}/jobs?wait=1ms", body)


def _naming(path: str, body: Callable[[str], Any]) -> Ask:
    return lambda world, caller, tenant: world.send(caller, "POST", path, body(f"org-{tenant}"))


def _list_jobs(world: World, caller: Caller | None, tenant: str) -> Answer:
    if tenant != NOTHING:
        world.ended(tenant)
    return world.send(caller, "GET", f"{COMPOSER}/jobs?limit=1000&state=finished&channel=org-{tenant}")


def _list_workers(world: World, caller: Caller | None, tenant: str) -> Answer:
    if tenant != NOTHING:
        world.worker(Caller(Role.WORKER, tenant))
    return world.send(caller, "GET", f"{COMPOSER}/workers")


def _lists(id_of: Callable[[World, str], str]) -> Callable[[Answer, World, str], bool]:
    return lambda answer, world, tenant: id_of(world, tenant) in [item["id"] for item in answer.json["items"]]


NAMED_CHANNEL = (403, 30)

OPERATIONS: Mapping[str, Operation] = {
    "RequestJob": Operation("channel", _request_job, 201, NAMED_CHANNEL),
    "GetJob": _attempt("GET"),
    "UpdateJob": _attempt("PATCH", body={"result": 1}),
    "UpdateJobWithPost": _attempt("POST", body={"partial": 1}),
    "ReleaseJob": _attempt("POST", "/release", {}),
    "UploadJobArtifact": _attempt("PUT", "/artifacts/log", b"text"),
    "postWorkers": Operation(
        "channel",
        _naming(f"{WORKER}/workers", lambda channel: {"arch": "x86_64", "channel": channel}),
        201,
        NAMED_CHANNEL,
    ),
    "postWorkerStatus": _worker("POST", "/status", 200, (400, 18)),
    "signOffWorker": _worker("DELETE", "", 204, None),
    "submitJob": Operation(
        "channel",
        _naming(f"{COMPOSER}/jobs", lambda channel: {"type": "build", "channel": channel}),
        201,
        NAMED_CHANNEL,
    ),
    "submitJobs": Operation(
        "channel",
        _naming(f"{COMPOSER}/jobs/batch", lambda channel: {"jobs": [{"type": "build", "channel": channel}]}),
        201,
        NAMED_CHANNEL,
    ),
    "cancelJob": _job(_submitted, "POST", "/cancel"),
    "deleteJob": _job(_canceled, "DELETE", status=204),
    "listJobs": Operation("channel", _list_jobs, 200, has=_lists(World.ended)),
    "getJob": _reading(),
    "getJobArgs": _reading("/args"),
    "getJobResult": _reading("/result"),
    "whyJob": _reading("/why"),
    "listDependencies": _reading("/dependencies"),
    "listDependents": _reading("/dependents"),
    "listArtifacts": _reading("/artifacts"),
    "getArtifact": _reading("/artifacts/log"),
    "listWorkers": Operation(
        "channel", _list_workers, 200, has=_lists(lambda world, tenant: world.worker(Caller(Role.WORKER, tenant)))
    ),
    "whoami": _simple(f"{COMPOSER}/whoami"),
    "GetStatus": _simple(f"{WORKER}/status"),
    "getStatus": _simple(f"{COMPOSER}/status"),
    "getErrors": _simple(f"{COMPOSER}/errors"),
    "getError": _simple(f"{WORKER}/errors/5"),
    "getOpenapi": _simple(f"{COMPOSER}/openapi"),
    "getMetrics": _simple("/metrics"),
    "getReadiness": _simple("/readyz"),
    "getHealth": _simple("/healthz"),
    "getFrontPage": _simple("/"),
}
"""The operations by their names in the table of permissions."""
