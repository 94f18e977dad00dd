"""Answers of both APIs of a live server: tokens, errors, listings. Request bodies are in test_bodies."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMPOSER, JSON, NOBODY, WORKER, Server, error, send


async def attempt(server: Server, state: str, *, confirm: bool = False) -> str:
    """Return the location of an attempt in this state."""
    if state == "unknown":
        return f"{WORKER}/jobs/{NOBODY}"
    if state == "not a UUID":
        return f"{WORKER}/jobs/here"
    job = await server.submit(type=f"t-{uuid.uuid4()}")
    assigned = await server.ask(job["type"], confirm=confirm)
    assert assigned is not None
    if state == "canceled":
        assert (await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel"))[0] == 200
    if state == "finished":
        assert (await server.finish(assigned, 1))[0] == 200
    if state == "superseded":
        assert (await server.request("POST", f"{assigned['location']}/release", {}))[0] == 200
    return str(assigned["location"])


TOKEN_TABLE: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    # state: the row, and the error of GET, PATCH result, PATCH partial and release, PUT; 0: none
    "running": ("runs", (0, 0, 0, 0)),
    "canceled": ("job canceled", (0, 6, 6, 6)),
    "finished": ("finished by this token", (5, 20, 21, 21)),
    "superseded": ("superseded", (0, 22, 22, 22)),
    "superseded, confirming": ("superseded", (22, 22, 22, 22)),
    "unknown": ("unknown token", (5, 5, 5, 5)),
    "not a UUID": ("not a UUID", (8, 7, 7, 7)),
}
STATUS = {0: 200, 5: 404, 6: 400, 7: 400, 8: 400, 20: 409, 21: 409, 22: 410}


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=pytest.mark.row("Tokens", name)) for row, (name, _) in TOKEN_TABLE.items()]
)
async def test_token_table(server: Server, row: str) -> None:
    """A call with a token is answered according to the state of its attempt, as the table of tokens says."""
    state = row.partition(",")[0]
    confirm = "confirming" in row
    numbers = TOKEN_TABLE[row][1]
    calls = [
        ("GET", "", None, {}),
        ("PATCH", "", b'{"result":2}', JSON),
        ("PATCH", "", b'{"partial":2}', JSON),
        ("POST", "/release", b"{}", JSON),
        ("PUT", "/artifacts/a", b"x", {}),
    ]
    for (method, path, body, headers), number in zip(calls, [*numbers[:3], *numbers[2:]], strict=True):
        location = await attempt(server, state, confirm=confirm)
        status, _, raw = await send(server, method, location + path, body, **headers)
        answered = json.loads(raw) if raw else {}
        assert (status, int(answered["id"]) if status >= 400 else 0) == (STATUS[number], number), (method, path)
        if method == "GET" and not number:
            assert answered["canceled"] is (state != "running")
        if number == 6:
            assert answered["details"]["state"] == "canceled"


@pytest.mark.row("Tokens", "finished by this token")
async def test_the_same_result_again(server: Server) -> None:
    """A finish that is repeated with the same bytes is 200, with others error 20, and the first result stays."""
    job = await server.submit()
    assigned = await server.ask()
    assert assigned is not None
    for body, expected in [
        (b'{"result": {"a":1}}', 200),
        (b'{"result": {"a":1}}', 200),
        (b'{"result": {"a": 1}}', 409),
    ]:
        status, _, _ = await send(server, "PATCH", assigned["location"], body, **JSON)
        assert status == expected
    assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/result"))[2] == b'{"a":1}'


@pytest.mark.parametrize(
    ("body", "number"),
    [
        *[(b"{}", 0), (b" { } ", 0), (b'{"resutl":1}', 19), (b"[]", 19), (b"null", 19)],
        *[(b'{"result":1,"partial":1}', 19), (b'{"result":null,"partial":null}', 19)],
    ],
)
async def test_patch_bodies(server: Server, body: bytes, number: int) -> None:
    """An empty object finishes with the result null; both or neither of result and partial are error 19."""
    location = await attempt(server, "running")
    status, _, raw = await send(server, "PATCH", location, body, **JSON)
    assert (status, int(json.loads(raw)["id"]) if number else 0) == (400 if number else 200, number)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"result": 1, "partial": null}', ("finished", None, 1)),
        (b'{"partial" : null , "result" : {"job_error": 1}}', ("failed", None, {"job_error": 1})),
        (b'{"partial": 1, "result": null }', ("running", 1, None)),
        (b'{"partial": null}', ("running", None, None)),
        (b'{"result": null}', ("finished", None, None)),
    ],
)
async def test_a_null_beside_the_other_counts_as_left_out(
    server: Server, body: bytes, expected: tuple[str, Any, Any]
) -> None:
    """A generated client may send null for what it was not given; null alone is a result, or progress."""
    job = await server.submit()
    assigned = await server.ask()
    assert assigned is not None
    assert (await send(server, "PATCH", assigned["location"], body, **JSON))[0] == 200
    shown = await server.job(job["id"])
    assert (shown["state"], shown["partial"], shown["result"]) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nowhere", (404, 11)),
        ("GET", f"{WORKER}/nowhere", (404, 11)),
        ("GET", f"{COMPOSER}/nowhere", (404, 11)),
        ("GET", f"{COMPOSER}x/jobs", (404, 11)),
        ("DELETE", f"{WORKER}/jobs", (405, 12)),
        ("PUT", f"{COMPOSER}/jobs", (405, 12)),
        ("GET", f"{WORKER}/errors/x", (400, 9)),
        ("GET", f"{WORKER}/errors/-1", (400, 9)),
        ("GET", f"{WORKER}/errors/4", (404, 14)),
        ("GET", f"{COMPOSER}/errors/5", (404, 14)),
        ("GET", f"{COMPOSER}/errors?size=0", (400, 19)),
        ("GET", f"{COMPOSER}/jobs/{NOBODY}", (404, 32)),
        ("GET", f"{COMPOSER}/jobs/1", (404, 32)),
        ("GET", f"{COMPOSER}/jobs/{NOBODY}?wait=1s", (404, 32)),
        ("GET", f"{COMPOSER}/jobs/{NOBODY}/args", (404, 32)),
        ("GET", f"{COMPOSER}/jobs/{NOBODY}/result", (404, 32)),
        ("GET", f"{COMPOSER}/jobs/{NOBODY}/artifacts", (404, 32)),
        ("POST", f"{COMPOSER}/jobs/{NOBODY}/cancel", (404, 32)),
        ("GET", f"{COMPOSER}/jobs/{NOBODY}?wait=11m", (400, 19)),
        ("GET", f"{COMPOSER}/jobs/{NOBODY}?wait=soon", (400, 19)),
        ("GET", f"{COMPOSER}/jobs?limit=1001", (400, 39)),
        ("GET", f"{COMPOSER}/jobs?limit=x", (400, 39)),
        ("GET", f"{COMPOSER}/jobs?state=done", (400, 39)),
        ("GET", f"{COMPOSER}/jobs?cursor=%C3%A9", (400, 39)),
        ("GET", f"{COMPOSER}/jobs?cursor=nonsense", (400, 39)),
        ("GET", f"{COMPOSER}/jobs?cursor=AAAAAAAAAAE.", (400, 39)),
        ("GET", f"{COMPOSER}/jobs/%7B1%7D", (404, 32)),
        ("GET", f"{WORKER}/jobs/%7B1%7D", (400, 8)),
        ("GET", f"{COMPOSER}/jobs?colour=red", (400, 39)),
    ],
)
async def test_errors(server: Server, method: str, path: str, expected: tuple[int, int]) -> None:
    """A request that cannot be served gets a predefined error of the API that it was sent to."""
    assert (await error(server, method, path))[:2] == expected


@pytest.mark.parametrize("base", [WORKER, COMPOSER])
async def test_the_lists_of_errors(server: Server, base: str) -> None:
    """The errors are listed in pages, and each can be requested by its number."""
    _, everything = await server.request("GET", f"{base}/errors")
    assert everything["kind"] == "ErrorList"
    assert everything["total"] == len(everything["items"])
    _, page = await server.request("GET", f"{base}/errors?page=1&size=3")
    assert page["items"] == everything["items"][3:6]
    for item in everything["items"]:
        assert (await server.request("GET", item["href"]))[1] == item


@pytest.mark.parametrize(
    ("content", "number"),
    [
        ({"types": [], "arch": "x"}, 19),
        ({"types": ["a"] * 65, "arch": "x"}, 19),
        ({"types": ["a"]}, 19),
        ({"types": ["a b"], "arch": "x"}, 19),
        ({"types": ["a"], "arch": ""}, 19),
        ({"types": ["manifest-id-only"], "arch": "x"}, 15),
        ({"types": ["a"], "arch": "x", "worker_id": "me"}, 17),
    ],
)
async def test_invalid_requests_for_a_job(server: Server, content: Any, number: int) -> None:
    """An invalid request for a job is answered with an error at once."""
    body = json.dumps(content).encode()
    assert (await error(server, "POST", f"{WORKER}/jobs", body, **JSON))[:2] == (400, number)


async def test_requests_with_unknown_fields(server: Server) -> None:
    """The worker API ignores unknown fields and accepts unknown worker ids."""
    await server.submit()
    assert await server.ask(colour="red", worker_id=NOBODY) is not None


async def test_dependencies_that_cannot_be(server: Server) -> None:
    """An unknown dependency is error 36 and a canceled one error 37; both name it, and nothing is stored."""
    gone = (await server.submit())["id"]
    await server.request("POST", f"{COMPOSER}/jobs/{gone}/cancel")
    for job_id, expected in [(NOBODY, (400, 36)), ("nobody", (400, 36)), (gone, (409, 37))]:
        job = {"type": "a", "dependencies": [job_id]}
        for path, body in [("", job), ("/batch", {"jobs": [{"type": "a"}, job]})]:
            status, number, details = await error(
                server, "POST", f"{COMPOSER}/jobs{path}", json.dumps(body).encode(), **JSON
            )
            assert (status, number) == expected
            assert details["id"] == job_id
    assert len((await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"]) == 1


async def test_idempotency(server: Server) -> None:
    """A repeated idempotency key returns the existing job if the content is equal, and is error 38 otherwise."""
    body: dict[str, Any] = {"type": "a", "idempotency_key": "k", "args": {"n": 1}}
    first = await server.submit(**body)
    for _ in range(2):
        status, again = await server.request("POST", f"{COMPOSER}/jobs", body)
        assert (status, again["id"]) == (200, first["id"])
    for other in ({"args": {"n": 2}}, {"type": "b"}, {"priority": 1}, {"dependencies": [first["id"]]}):
        assert (await server.request("POST", f"{COMPOSER}/jobs", {**body, **other}))[0] == 409
    spelled = b'{"type":"a","idempotency_key":"k","args":{"n":1 }}'
    assert (await error(server, "POST", f"{COMPOSER}/jobs", spelled, **JSON))[:2] == (409, 38)
    assert (await server.submit(**{**body, "channel": "c"}))["id"] != first["id"]
    _, batch = await server.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": [{"type": "x"}, body]})
    assert batch["items"][1]["id"] == first["id"]
    assert len((await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"]) == 3


async def test_a_listing_in_pages(server: Server) -> None:
    """Jobs are listed newest first, in pages, without the fields that only a single job has."""
    ids = [(await server.submit())["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        _, page = await server.request("GET", f"{COMPOSER}/jobs?limit=2{cursor}")
        assert all(
            "result" not in item and "partial" not in item and "dependents" not in item for item in page["items"]
        )
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == ids[::-1]


async def test_head_and_ids(server: Server) -> None:
    """An error's answer to HEAD has the status and no body, and every request has its own id."""
    status, first, body = await send(server, "HEAD", f"{COMPOSER}/jobs/{NOBODY}")
    assert (status, body) == (404, b"")
    _, second, _ = await send(server, "HEAD", f"{COMPOSER}/jobs/{NOBODY}")
    assert first["X-Operation-Id"] != second["X-Operation-Id"]


async def test_deleting_jobs(server: Server) -> None:
    """An ended job is deleted with its artifacts; until it and its dependents have ended, deleting it is error 34."""
    job = await server.submit()
    dependent = await server.submit("later", dependencies=[job["id"]])
    path = f"{COMPOSER}/jobs/{job['id']}"
    assert (await error(server, "DELETE", path))[:2] == (409, 34)
    assigned = await server.ask()
    assert assigned is not None
    await send(server, "PUT", assigned["artifact_location"] + "a", b"data")
    await server.finish(assigned)
    assert (await error(server, "DELETE", path))[:2] == (409, 34)
    await server.request("POST", f"{COMPOSER}/jobs/{dependent['id']}/cancel")
    files = Path(server.storage.removeprefix("fs:")) / "artifacts" / job["id"]
    assert files.exists()
    assert await server.request("DELETE", path) == (204, b"")
    for gone in (("DELETE", path), ("GET", path), ("GET", f"{path}/artifacts/a"), ("DELETE", f"{COMPOSER}/jobs/x")):
        assert (await error(server, *gone))[:2] == (404, 32)
    assert (await error(server, "GET", assigned["location"]))[:2] == (404, 5)

    async def swept() -> bool:
        return not files.exists()

    await server.until(swept)
