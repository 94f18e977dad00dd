"""Every endpoint of both APIs in normal use: one test for each row of their tables."""

import asyncio
import base64
import hashlib
import json
import uuid
from typing import Any

import pytest

from composerd.version import VERSION

from .conftest import COMPOSER, NOBODY, WORKER, Server, send, until_waiting

row = pytest.mark.row
ON_WORKER, ON_COMPOSER = "Worker API", "Composer API"


async def taken(server: Server, **fields: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return a job, its attempt, and the attempt's token."""
    job = await server.submit(**fields)
    attempt = await server.ask()
    assert attempt is not None
    return job, attempt, attempt["location"].rpartition("/")[2]


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(WORKER, marks=row(ON_WORKER, "getOpenapi")),
        pytest.param(COMPOSER, marks=row(ON_COMPOSER, "getOpenapi")),
    ],
)
async def test_get_openapi(server: Server, base: str) -> None:
    """The OpenAPI document has this server's base path and endpoints."""
    status, document = await server.request("GET", f"{base}/openapi")
    assert (status, document["openapi"], document["servers"]) == (200, "3.1.0", [{"url": base}])
    names = {one["operationId"] for path in document["paths"].values() for one in path.values() if "operationId" in one}
    assert {"getOpenapi", "getErrors", "getError"} <= names


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(WORKER, marks=row(ON_WORKER, "GetStatus")),
        pytest.param(COMPOSER, marks=row(ON_COMPOSER, "getStatus")),
    ],
)
async def test_get_status(server: Server, base: str) -> None:
    """The status is an object that says OK, and the version of the server."""
    assert await server.request("GET", f"{base}/status") == (
        200,
        {"kind": "Status", "href": f"{base}/status", "id": "status", "status": "OK", "version": VERSION},
    )


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(WORKER, marks=row(ON_WORKER, "getErrors")),
        pytest.param(COMPOSER, marks=row(ON_COMPOSER, "getErrors")),
    ],
)
async def test_get_errors(server: Server, base: str) -> None:
    """The list has every error, or a page of them."""
    status, listed = await server.request("GET", f"{base}/errors")
    assert status == 200
    assert {name: listed[name] for name in ("kind", "href", "id", "page", "size")} == {
        "kind": "ErrorList",
        "href": f"{base}/errors",
        "id": "errors",
        "page": 0,
        "size": 100,
    }
    assert listed["total"] == len(listed["items"])
    _, paged = await server.request("GET", f"{base}/errors?page=1&size=2")
    assert (paged["page"], paged["size"], paged["items"]) == (1, 2, listed["items"][2:4])


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(WORKER, marks=row(ON_WORKER, "getError")),
        pytest.param(COMPOSER, marks=row(ON_COMPOSER, "getError")),
    ],
)
async def test_get_error(server: Server, base: str) -> None:
    """One error is returned with its reason."""
    status, error = await server.request("GET", f"{base}/errors/10")
    assert (status, error["kind"], error["href"], error["id"]) == (200, "Error", f"{base}/errors/10", "10")
    assert error["reason"] == error["message"] == "Malformed json, unable to decode body"


@row(ON_WORKER, "RequestJob")
async def test_request_job(server: Server) -> None:
    """A worker gets a job with its args and its dependencies' results and a new location, or 204 if there is none."""
    first = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    assert "args" not in attempt
    assert "dynamic_args" not in attempt
    await server.finish(attempt, {"n": 1})
    second = await server.submit(args={"b": 1, "a": 2}, dependencies=[first["id"]])
    status, given = await server.request(
        "POST", f"{WORKER}/jobs", {"types": ["build"], "arch": "x86_64", "worker_id": NOBODY, "confirm": True}
    )
    token = given["location"].rpartition("/")[2]
    assert status == 201
    assert str(uuid.UUID(token)) == token
    assert given == {
        "kind": "RequestJob",
        "href": f"{WORKER}/jobs",
        "id": second["id"],
        "type": "build",
        "location": f"{WORKER}/jobs/{token}",
        "token": token,
        "artifact_location": f"{WORKER}/jobs/{token}/artifacts/",
        "lease": "120s",
        "args": {"b": 1, "a": 2},
        "dynamic_args": [{"n": 1}],
    }
    status, _, body = await send(
        server,
        "POST",
        f"{WORKER}/jobs?wait=50ms",
        b'{"types":["build"],"arch":"x86_64"}',
        Content_Type="application/json",
    )
    assert (status, body) == (204, b"")


@row(ON_WORKER, "GetJob")
async def test_get_job_of_a_token(server: Server) -> None:
    """A worker is told whether its job was canceled, also while it waits for that."""
    job, attempt, token = await taken(server)
    expected = {"kind": "JobStatus", "href": attempt["location"], "id": token, "canceled": False}
    assert await server.request("GET", attempt["location"]) == (200, expected)
    asking = asyncio.create_task(server.request("GET", f"{attempt['location']}?wait=10s"))
    await until_waiting(server, 1)
    await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel")
    assert await asking == (200, expected | {"canceled": True})


@row(ON_WORKER, "UpdateJob")
async def test_update_job(server: Server) -> None:
    """A worker reports progress, and then the result."""
    job, attempt, token = await taken(server)
    expected = (200, {"kind": "UpdateJobResponse", "href": attempt["location"], "id": token})
    assert await server.request("PATCH", attempt["location"], {"partial": {"done": 1}}) == expected
    assert (await server.job(job["id"]))["partial"] == {"done": 1}
    assert await server.request("PATCH", attempt["location"], {"result": {"ok": True}}) == expected
    assert (await server.job(job["id"]))["result"] == {"ok": True}


@row(ON_WORKER, "UpdateJobWithPost")
async def test_update_job_with_post(server: Server) -> None:
    """A POST to the location of an attempt reports progress and finishes the job, as a PATCH does."""
    job, attempt, token = await taken(server)
    expected = (200, {"kind": "UpdateJobResponse", "href": attempt["location"], "id": token})
    assert await server.request("POST", attempt["location"], {"partial": {"percent": 5}}) == expected
    assert (await server.job(job["id"]))["partial"] == {"percent": 5}
    assert await server.request("POST", attempt["location"], {"result": [1]}) == expected
    ended = await server.job(job["id"])
    assert (ended["state"], ended["result"]) == ("finished", [1])


@row(ON_WORKER, "ReleaseJob")
async def test_release_job(server: Server) -> None:
    """A released job is ready again, and no retry is counted."""
    job, attempt, token = await taken(server)
    expected = (200, {"kind": "UpdateJobResponse", "href": attempt["location"], "id": token})
    assert await server.request("POST", f"{attempt['location']}/release", {}) == expected
    back = await server.job(job["id"])
    assert (back["state"], back["retries"]) == ("ready", 0)


@row(ON_WORKER, "UploadJobArtifact")
async def test_upload_job_artifact(server: Server) -> None:
    """An uploaded file, which is answered with what is stored, is an artifact of the job once that has finished."""
    job, attempt, _ = await taken(server)
    path = attempt["artifact_location"] + "a.txt"
    status, headers, body = await send(server, "PUT", path, b"hello", Content_Type="application/octet-stream")
    digest = hashlib.sha256(b"hello")
    assert (status, json.loads(body)) == (
        200,
        {"kind": "Artifact", "href": path, "id": "a.txt", "name": "a.txt", "size": 5, "sha256": digest.hexdigest()},
    )
    assert headers["Content-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    await server.finish(attempt)
    assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/a.txt"))[2] == b"hello"


@row(ON_WORKER, "postWorkers")
async def test_post_workers(server: Server) -> None:
    """A worker that registers gets an id."""
    status, worker = await server.request("POST", f"{WORKER}/workers", {"arch": "x86_64"})
    assert status == 201
    assert str(uuid.UUID(worker["worker_id"])) == worker["worker_id"]
    assert (worker["kind"], worker["href"], worker["id"]) == ("WorkerID", f"{WORKER}/workers", worker["worker_id"])


@row(ON_WORKER, "postWorkerStatus")
async def test_post_worker_status(server: Server) -> None:
    """The status of a known worker is accepted, and that of an unknown one is error 18."""
    _, worker = await server.request("POST", f"{WORKER}/workers", {"arch": "x86_64"})
    assert (await send(server, "POST", f"{WORKER}/workers/{worker['id']}/status"))[::2] == (200, b"")
    status, unknown = await server.request("POST", f"{WORKER}/workers/{NOBODY}/status")
    assert (status, unknown["id"]) == (400, "18")


@row(ON_COMPOSER, "submitJob")
async def test_submit_job(server: Server) -> None:
    """A submitted job is 201, and the same job again is 200 for a repeated idempotency key."""
    fields = {"type": "build", "idempotency_key": "k", "args": 1}
    status, job = await server.request("POST", f"{COMPOSER}/jobs", fields)
    assert (status, job["state"], job["href"]) == (201, "ready", f"{COMPOSER}/jobs/{job['id']}")
    assert set(job) == {
        *(
            "kind",
            "href",
            "id",
            "type",
            "arch",
            "channel",
            "state",
            "priority",
            "queued_at",
            "not_before",
            "started_at",
        ),
        *("finished_at", "retries", "canceled", "dependencies", "dependents", "worker_id", "partial", "result"),
        *("idempotency_key", "expires_at"),
    }
    assert await server.request("POST", f"{COMPOSER}/jobs", fields) == (200, job)


@row(ON_COMPOSER, "submitJobs")
async def test_submit_jobs(server: Server) -> None:
    """The jobs of a batch are stored in their order, all or none."""
    graph = [{"type": "a", "ref": "one"}, {"type": "b", "dependencies": ["one"]}]
    status, listed = await server.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": graph})
    assert (status, listed["kind"]) == (201, "JobList")
    assert [job["type"] for job in listed["items"]] == ["a", "b"]
    assert listed["items"][1]["dependencies"] == [listed["items"][0]["id"]]
    wrong = [{"type": "a"}, {"type": "b", "dependencies": [NOBODY]}]
    assert (await server.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": wrong}))[0] == 400
    assert len((await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"]) == 2


@row(ON_COMPOSER, "listJobs")
async def test_list_jobs(server: Server) -> None:
    """Jobs are listed newest first, filtered, in pages, and without results."""
    ids = [(await server.submit(type, arch=arch))["id"] for type, arch in (("a", "x"), ("b", "x"), ("a", "y"))]
    _, listed = await server.request("GET", f"{COMPOSER}/jobs")
    assert [job["id"] for job in listed["items"]] == ids[::-1]
    assert not {"result", "partial", "dependents"} & set(listed["items"][0])
    for query, expected in (("type=a", [2, 0]), ("arch=x", [1, 0]), ("state=running", []), ("channel=", [2, 1, 0])):
        _, found = await server.request("GET", f"{COMPOSER}/jobs?{query}")
        assert [job["id"] for job in found["items"]] == [ids[index] for index in expected]
    _, page = await server.request("GET", f"{COMPOSER}/jobs?limit=2")
    _, rest = await server.request("GET", f"{COMPOSER}/jobs?limit=2&cursor={page['next']}")
    assert [job["id"] for job in page["items"] + rest["items"]] == ids[::-1]


async def test_several_states(server: Server) -> None:
    """A repeated `state` lists jobs in any of these states, newest first over all pages, beside other filters."""
    ids = [(await server.submit("ab"[n % 2]))["id"] for n in range(8)]
    for n in (0, 3, 6):
        await server.request("POST", f"{COMPOSER}/jobs/{ids[n]}/cancel")
    attempts = [await server.ask("a", "b") for _ in range(2)]
    assert attempts[0] is not None
    await server.finish(attempts[0])
    states = [(await server.job(one))["state"] for one in ids]
    assert states == ["canceled", "finished", "running", "canceled", "ready", "ready", "canceled", "ready"]
    for query, expected in (
        ("state=ready&state=running", [7, 5, 4, 2]),
        ("state=canceled&state=ready&state=canceled", [7, 6, 5, 4, 3, 0]),
        ("state=finished&state=running&type=a", [2]),
        ("state=waiting&state=failed", []),
    ):
        found: list[str] = []
        cursor = ""
        while True:
            status, page = await server.request("GET", f"{COMPOSER}/jobs?limit=2&{query}{cursor}")
            assert status == 200
            found += [job["id"] for job in page["items"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert found == [ids[index] for index in expected]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("type=a&type=b", "type"),
        ("arch=a&arch=a", "arch"),
        ("channel=&channel=c", "channel"),
        ("limit=1&limit=2", "limit"),
        ("state=ready&state=done", "state"),
        ("state=ready,running", "state"),
        ("states=ready", "states"),
    ],
)
async def test_filters_that_cannot_be_combined(server: Server, query: str, field: str) -> None:
    """A repeated filter other than `state`, and one that does not exist, is an error that names it."""
    status, refused = await server.request("GET", f"{COMPOSER}/jobs?{query}")
    assert (status, refused["id"], refused["details"]["field"]) == (400, "39", field)


@row(ON_COMPOSER, "getJob")
async def test_get_job(server: Server) -> None:
    """A job is returned at once, or when it has ended."""
    job, attempt, _ = await taken(server)
    asking = asyncio.create_task(server.job(job["id"], wait="10s"))
    await until_waiting(server, 1)
    await server.finish(attempt, 7)
    ended = await asking
    assert (ended["state"], ended["result"]) == ("finished", 7)
    assert (await server.job(job["id"])) == ended


@row(ON_COMPOSER, "getJobArgs")
async def test_get_job_args(server: Server) -> None:
    """The args are returned byte for byte."""
    body = b'{"type":"build","args": {"b":1.0, "a": [1e3]}}'
    _, _, answered = await send(server, "POST", f"{COMPOSER}/jobs", body, Content_Type="application/json")
    _, headers, args = await send(server, "GET", json.loads(answered)["href"] + "/args")
    assert (headers["Content-Type"], args) == ("application/json", b'{"b":1.0, "a": [1e3]}')


@row(ON_COMPOSER, "getJobResult")
async def test_get_job_result(server: Server) -> None:
    """The result is returned byte for byte."""
    job, attempt, _ = await taken(server)
    await send(server, "PATCH", attempt["location"], b'{"result": [1.50,  2]}', Content_Type="application/json")
    assert (await send(server, "GET", f"{job['href']}/result"))[2] == b"[1.50,  2]"


@row(ON_COMPOSER, "cancelJob")
async def test_cancel_job(server: Server) -> None:
    """A job can be canceled, and canceled again, but not once it has ended otherwise."""
    job = await server.submit()
    for _ in range(2):
        status, canceled = await server.request("POST", f"{job['href']}/cancel")
        assert (status, canceled["state"], canceled["canceled"]) == (200, "canceled", True)
    ended, attempt, _ = await taken(server)
    await server.finish(attempt)
    status, refused = await server.request("POST", f"{ended['href']}/cancel")
    assert (status, refused["id"]) == (409, "33")


@row(ON_COMPOSER, "deleteJob")
async def test_delete_job(server: Server) -> None:
    """An ended job is deleted with its artifacts, and one that has not ended stays."""
    job, attempt, _ = await taken(server)
    await send(server, "PUT", attempt["artifact_location"] + "a", b"x")
    status, refused = await server.request("DELETE", job["href"])
    assert (status, refused["id"]) == (409, "34")
    await server.finish(attempt)
    assert (await send(server, "DELETE", job["href"]))[::2] == (204, b"")
    for path in ("", "/artifacts", "/artifacts/a"):
        assert (await server.request("GET", job["href"] + path))[1]["id"] == "32"


@row(ON_COMPOSER, "listArtifacts")
async def test_list_artifacts(server: Server) -> None:
    """A job has no artifacts before its end, and then each is listed with size and digest."""
    job, attempt, _ = await taken(server)
    await send(server, "PUT", attempt["artifact_location"] + "a", b"hello")
    href = f"{job['href']}/artifacts"
    expected = {"kind": "ArtifactList", "href": href, "id": "artifacts", "items": []}
    assert await server.request("GET", href) == (200, expected)
    await server.finish(attempt)
    digest = hashlib.sha256(b"hello").hexdigest()
    item = {"kind": "Artifact", "href": f"{href}/a", "id": "a", "name": "a", "size": 5, "sha256": digest}
    assert (await server.request("GET", href))[1]["items"] == [item]


@row(ON_COMPOSER, "getArtifact")
async def test_get_artifact(server: Server) -> None:
    """An artifact is downloaded whole or in part, with its digest as ETag; an unknown name is error 35."""
    job, attempt, _ = await taken(server)
    await send(server, "PUT", attempt["artifact_location"] + "a", b"hello")
    await server.finish(attempt)
    path = f"{job['href']}/artifacts/a"
    status, headers, body = await send(server, "GET", path)
    assert (status, body) == (200, b"hello")
    assert headers["ETag"] == f'"{hashlib.sha256(b"hello").hexdigest()}"'
    assert "a" in headers["Content-Disposition"]
    status, _, body = await send(server, "GET", path, Range="bytes=1-2")
    assert (status, body) == (206, b"el")
    assert (await server.request("GET", path + "b"))[1]["id"] == "35"


@row(ON_COMPOSER, "listDependencies")
@row(ON_COMPOSER, "listDependents")
@pytest.mark.parametrize("what", ["dependencies", "dependents"])
async def test_list_edges(server: Server, what: str) -> None:
    """The dependencies and the dependents of a job are listed in pages of ids; a listing of jobs has neither."""
    hub = await server.submit()
    ids = [(await server.submit(dependencies=[hub["id"]]))["id"] for _ in range(3)]
    if what == "dependencies":
        hub = await server.submit(dependencies=ids)
    status, page = await server.request("GET", f"{hub['href']}/{what}?limit=2")
    assert (status, page["kind"], page["href"], page["id"]) == (200, "JobIdList", f"{hub['href']}/{what}", hub["id"])
    status, rest = await server.request("GET", f"{hub['href']}/{what}?limit=2&cursor={page['next']}")
    assert (page["items"] + rest["items"], rest["next"]) == (ids, None)
    assert (await server.request("GET", f"{hub['href']}/{what}?limit=0"))[1]["id"] == "39"
    assert (await server.request("GET", f"{COMPOSER}/jobs/{uuid.uuid4()}/{what}"))[1]["id"] == "32"
    _, listed = await server.request("GET", f"{COMPOSER}/jobs")
    assert all(what not in job for job in listed["items"])


@row(ON_COMPOSER, "listWorkers")
async def test_list_workers(server: Server) -> None:
    """Workers that registered and workers that only requested jobs are listed with the jobs that they run."""
    job = await server.submit()
    worker_id = str(uuid.uuid4())
    await server.ask(worker_id=worker_id)
    status, listed = await server.request("GET", f"{COMPOSER}/workers")
    (worker,) = listed["items"]
    assert (status, listed["kind"]) == (200, "WorkerList")
    assert (worker["id"], worker["arch"], worker["types"]) == (worker_id, "x86_64", ["build"])
    assert worker["jobs"] == [job["id"]]


@row(ON_COMPOSER, "whyJob")
async def test_why_job(server: Server) -> None:
    """A job that is not running is explained by the jobs that it waits for."""
    first = await server.submit()
    job = await server.submit(dependencies=[first["id"]])
    status, why = await server.request("GET", f"{job['href']}/why")
    assert (status, why["kind"], why["state"], why["blocked_by"]) == (200, "JobWhy", "waiting", [first["id"]])
    _, why = await server.request("GET", f"{first['href']}/why")
    assert (why["state"], why["workers"], why["ahead"]) == ("ready", 0, 0)


@row(ON_COMPOSER, "whoami")
async def test_whoami(server: Server) -> None:
    """A server without identities takes everybody for an administrator without a tenant."""
    assert await server.request("GET", f"{COMPOSER}/whoami") == (
        200,
        {
            "kind": "Identity",
            "href": f"{COMPOSER}/whoami",
            "id": "whoami",
            "name": "anybody",
            "role": "admin",
            "tenant": None,
            "channel": "",
            "source": None,
            "expires_at": None,
        },
    )
