"""The jobs, attempts and workers of another tenant, in every state, and requests about them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from composerd.identity.roles import Role

from .world import COMPOSER, OTHER, TENANT, WORKER, Answer, Caller, World, nobody

THEIR_SUBMITTER, THEIR_WORKER = Caller(Role.SUBMITTER, OTHER), Caller(Role.WORKER, OTHER)


class Request(NamedTuple):
    """A request about something, in whose path, body and headers `{}` stands for its name."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = {}

    def about(self, name: str) -> "Request":
        """Return the request about one thing."""
        return Request(
            self.method,
            self.path.replace("{}", name),
            _about(self.body, name),
            {key: value.replace("{}", name) for key, value in self.headers.items()},
        )

    def send(self, world: World, caller: Caller | None) -> Answer:
        """Send it for somebody."""
        return world.send(caller, self.method, self.path, self.body, self.headers)


def _about(body: Any, name: str) -> Any:
    if isinstance(body, str):
        return body.replace("{}", name)
    if isinstance(body, list):
        return [_about(one, name) for one in body]
    if isinstance(body, dict):
        return {key: _about(value, name) for key, value in body.items()}
    return body


class Theirs(NamedTuple):
    """The objects of the other tenant."""

    jobs: Sequence[str]
    tokens: Sequence[str]
    """Tokens of attempts that run and that are over."""
    request_id: str
    """The id of a request that has got a job."""
    cursors: Sequence[str]
    etag: str
    type: str
    """The type of a job that is ready."""

    @classmethod
    def made(cls, world: World) -> "Theirs":
        """Let the other tenant make them."""
        running, finished, canceled, released, failed = (world.claim(THEIR_WORKER) for _ in range(5))
        world.sent(THEIR_WORKER, "PATCH", finished["location"], {"result": 1})
        world.sent(THEIR_SUBMITTER, "POST", f"{COMPOSER}/jobs/{canceled['id']}/cancel")
        world.sent(THEIR_WORKER, "POST", released["location"] + "/release", {})
        world.sent(THEIR_WORKER, "PATCH", failed["location"], {"result": {"job_error": {"id": 1}}})
        request_id = nobody()
        named = world.claim(THEIR_WORKER, request_id=request_id)
        attempts = [running, finished, canceled, released, failed, named]
        type = world.type()
        ready = world.submit(OTHER, type=type)
        waiting = world.submit(OTHER, dependencies=[ready])
        hub = world.submit(OTHER)
        large = [world.submit(OTHER, dependencies=[hub, ready]) for _ in range(120)]
        ended = world.ended(OTHER)
        world.sent(THEIR_SUBMITTER, "GET", f"{COMPOSER}/jobs/{hub}")  # the server remembers that it is large
        page = world.sent(THEIR_SUBMITTER, "GET", f"{COMPOSER}/jobs?limit=1")["next"]
        dependents = world.sent(THEIR_SUBMITTER, "GET", f"{COMPOSER}/jobs/{hub}/dependents?limit=1")["next"]
        (artifact,) = world.sent(THEIR_SUBMITTER, "GET", f"{COMPOSER}/jobs/{ended}/artifacts")["items"]
        jobs = [one["id"] for one in attempts] + [ready, waiting, hub, large[0], ended]
        tokens = [one["location"].rpartition("/")[2] for one in attempts]
        return cls(jobs, tokens, request_id, [page, dependents], f'"{artifact["sha256"]}"', type)

    def seen(self, world: World) -> list[Answer]:
        """Return what the other tenant sees of its jobs."""
        return [world.send(THEIR_SUBMITTER, "GET", f"{COMPOSER}/jobs/{job_id}") for job_id in self.jobs]


CALLERS = [Caller(role, tenant) for role in Role for tenant in (TENANT, None) if role is not Role.ADMIN] + [None]
"""Everybody for whom the other tenant's things do not exist."""

ATTEMPT_CALLERS = [*CALLERS, Caller(Role.ADMIN, TENANT), Caller(Role.ADMIN, OTHER), Caller(Role.ADMIN, None)]
"""Everybody for whom the attempts and the workers of the other tenant's worker do not exist."""


def _query(*parameters: str) -> st.SearchStrategy[str]:
    chosen = st.lists(st.sampled_from(parameters), max_size=2, unique=True)
    return chosen.map(lambda names: "?" + "&".join(names) if names else "")


def requests_about_jobs(theirs: Theirs) -> st.SearchStrategy[Request]:
    """Return requests that name a job in their path, or as a dependency."""
    pages = [f"cursor={cursor}" for cursor in (*theirs.cursors, "AAAA")]
    of_job = st.sampled_from(
        [
            *("", "/args", "/result", "/why", "/cancel", "/dependencies", "/dependents", "/artifacts"),
            *("/artifacts/log", "/artifacts/none", "/artifacts/.hidden", "/nothing", "/"),
        ]
    )
    path = st.builds(
        lambda part, query: f"{COMPOSER}/jobs/{{}}{part}{query}",
        of_job,
        _query("wait=1ms", "wait=no", "limit=1", "limit=0", "state=ready", *pages),
    )
    headers = st.fixed_dictionaries(
        {},
        optional={
            "If-None-Match": st.sampled_from(["*", theirs.etag, '"a"']),
            "If-Match": st.sampled_from(["*", theirs.etag, '"a"']),
            "If-Modified-Since": st.just("Fri, 01 Jan 2100 00:00:00 GMT"),
            "Range": st.sampled_from(["bytes=0-1", "bytes=9999-"]),
            "Accept": st.just("application/json"),
        },
    )
    reading = st.builds(Request, st.sampled_from(["GET", "HEAD", "OPTIONS"]), path, st.none(), headers)
    changing = st.builds(
        Request, st.sampled_from(["POST", "DELETE", "PUT", "PATCH"]), path, st.sampled_from([None, {}, b"", b"{"])
    )
    named = st.sampled_from([["{}"], ["{}", "{}"], ["none"]]).map(lambda names: {"type": "t", "dependencies": names})
    batch = named.map(lambda job: {"jobs": [{"type": "t", "ref": "first"}, job]})
    submitting = st.one_of(
        st.builds(Request, st.just("POST"), st.just(f"{COMPOSER}/jobs"), named),
        st.builds(Request, st.just("POST"), st.just(f"{COMPOSER}/jobs/batch"), batch),
    )
    return st.one_of(reading, changing, submitting)


def requests_about_attempts() -> st.SearchStrategy[Request]:
    """Return requests that name an attempt by its token."""
    results = [{"result": 1}, {"result": 2, "artifacts": []}, {"partial": 1}, {}, {"result": 1, "partial": 1}, b"{"]
    expecting = st.sampled_from([{}, {"Expect": "100-continue"}])
    location = f"{WORKER}/jobs/{{}}"
    asking = _query("wait=1ms", "wait=no").map(lambda query: Request("GET", location + query))
    reporting = st.builds(
        Request, st.sampled_from(["PATCH", "POST"]), st.just(location), st.sampled_from(results), expecting
    )
    releasing = st.builds(Request, st.just("POST"), st.just(f"{location}/release"), st.sampled_from([None, {}, b"{"]))
    uploading = st.builds(
        Request,
        st.just("PUT"),
        st.sampled_from([f"{location}/artifacts/{name}" for name in ("log", "other", ".hidden")]),
        st.sampled_from([b"text", b""]),
        st.sampled_from([{}, {"Expect": "100-continue"}, {"Content-Digest": "sha-256=:AAAA:"}, {"Accept": "*/*"}]),
    )
    return st.one_of(asking, reporting, releasing, uploading)


def requests_about_workers() -> st.SearchStrategy[Request]:
    """Return requests that name a worker."""
    bodies = [None, {}, {"problem": "disk"}, {"arch": "x86_64", "types": ["t"]}, {"arch": " ", "types": ["t"]}]
    path = f"{WORKER}/workers/{{}}"
    asking = {"types": ["never"], "arch": "x86_64", "worker_id": "{}", "slots": 1}
    return st.one_of(
        st.builds(Request, st.just("POST"), st.just(f"{path}/status"), st.sampled_from(bodies)),
        st.sampled_from([Request("DELETE", path), Request("DELETE", f"{path}?channel=org-{OTHER}")]),
        st.just(Request("POST", f"{WORKER}/jobs?wait=1ms", asking)),
    )


def requests_about_channels(theirs: Theirs) -> st.SearchStrategy[Request]:
    """Return requests that name a channel."""
    asking = {"types": [theirs.type], "arch": "x86_64", "channel": "{}"}
    return st.sampled_from(
        [
            *(Request("GET", f"{COMPOSER}/jobs?channel={{}}{more}") for more in ("", "&limit=1", "&state=ready")),
            *(Request("GET", f"{COMPOSER}/jobs?channel={{}}&cursor={cursor}") for cursor in theirs.cursors),
            Request("GET", f"{COMPOSER}/workers?channel={{}}"),
            Request("POST", f"{COMPOSER}/jobs", {"type": "t", "channel": "{}"}),
            Request("POST", f"{COMPOSER}/jobs/batch", {"jobs": [{"type": "t"}, {"type": "t", "channel": "{}"}]}),
            Request("POST", f"{WORKER}/jobs?wait=1ms", asking),
            Request("POST", f"{WORKER}/workers", {"arch": "x86_64", "channel": "{}"}),
        ]
    )
