"""Answers of composerd, and what does not pass for one: a real server, and a relay that answers, replays and loses."""

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from composerd.cli.errors import Failure
from composerd.cli.running import submit
from composerd.cli.server import Server as Connected
from composerd_client import ComposerClient, JobContext, ProxyAnswered, RequestFailed, ServerUnreachable
from composerd_client.outages import Outages

from .conftest import COMPOSER, Serve, Server, send
from .http_relay import NAME, Hook, Relay, relaying
from .test_cli import composerd
from .test_client_behind_proxies import DATA, upload, worker

Calls = dict[str, Callable[[ComposerClient], Awaitable[Any]]]


def first(times: int, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Hook:
    """Return a hook that answers the first requests of each kind instead of the server."""
    seen: dict[str, int] = {}

    async def hook(request: web.Request) -> web.StreamResponse | None:
        kind = f"{request.method} {request.path_qs}"
        seen[kind] = seen.get(kind, 0) + 1
        return await answer(request) if seen[kind] <= times else None

    return hook


def disguised(wrong: str, relay: Relay) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a function whose answers have an id of a request, as composerd's have, and something wrong."""

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"X-Operation-Id": str(uuid.uuid4())}
        if wrong == "a page":
            return relay.page(200, **headers)
        if wrong in ("204", "202"):
            kind = "JobStatus" if request.method == "GET" else "UpdateJobResponse"
            body = {"kind": kind, "href": request.path, "id": request.path.rpartition("/")[2], "canceled": False}
            return (
                web.json_response(body, status=int(wrong), headers=headers)
                if wrong == "202"
                else relay.page(204, **headers)
            )
        if wrong == "a page for an error":
            return relay.page(404, **headers)
        if wrong == "another's error":
            error = {"kind": "Error", "id": "5", "reason": "Token not found", "operation_id": str(uuid.uuid4())}
            return web.json_response(error, status=404, headers=headers)
        body = {"kind": "JobStatus", "href": "/", "id": str(uuid.uuid4()), "canceled": True}
        if wrong == "another kind":
            body |= {"kind": "Status", "id": request.path.rpartition("/")[2]}
        return web.json_response(body, headers=headers)

    return answer


@pytest.mark.parametrize(
    "wrong", ["a page", "204", "202", "a page for an error", "another's error", "another kind", "another token"]
)
async def test_answers_that_pass_on_a_request_id(server: Server, relay: Relay, wrong: str) -> None:
    """An answer with a request id that is a page, of another kind or about another attempt ends neither job nor worker.

    A 204 to a request for a job is composerd's: it says that there is none.
    """
    relay.hook = first(2, disguised(wrong, relay))
    job = await server.submit()
    async with worker(relay, upload):
        ended = await server.job(job["id"], wait="20s")
    assert (ended["state"], ended["retries"], ended["result"]) == ("finished", 0, {"n": 1})
    _, listed = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/artifacts")
    assert [(one["name"], one["size"]) for one in listed["items"]] == [("a", len(DATA)), ("b", 0)]


@pytest.mark.parametrize("aged", [True, False])
async def test_a_cache_that_answers_heartbeats(serve: Serve, aged: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A heartbeat that a cache answers does not count: a cancel is noticed, and the log says what to do."""
    server = await serve("--heartbeat-timeout", "3s")
    kept: list[tuple[int, Any, bytes]] = []
    replayed = asyncio.Event()
    canceled = asyncio.Event()

    async def replay(request: web.Request) -> web.StreamResponse | None:
        if "wait" not in request.query or request.method != "GET" or len(replies) >= 4:
            return None
        if not kept:
            kept.append(await send(server, "GET", request.path))
        replies.append(request)
        if len(replies) == 3:
            replayed.set()
        status, headers, body = kept[0]
        request_id = str(uuid.uuid4()) if aged else headers["X-Operation-Id"]
        age = {"Age": "30"} if aged else {}
        return web.Response(
            status=status, body=body, content_type="application/json", headers={"X-Operation-Id": request_id, **age}
        )

    async def handler(_job: JobContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            canceled.set()

    replies: list[web.Request] = []
    async with relaying(server.url) as relay:
        relay.hook = replay
        job = await server.submit()
        async with worker(relay, handler), asyncio.timeout(20):
            await replayed.wait()
            await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel")
            await canceled.wait()
    line = "it answers from a cache (Age: 30)" if aged else "it repeats an earlier answer of composerd"
    assert f"cannot renew the lease of job {job['id']}, trying again: 200 from a proxy, not from composerd: {line}" in (
        caplog.text
    )


PAGES = [200, 204, 302, 404, 429, 503]


@pytest.mark.parametrize("status", PAGES)
async def test_pages_for_the_composer_client(
    server: Server, relay: Relay, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No method of the composer client takes a page for an answer, and each goes on when composerd answers."""
    monkeypatch.setattr("composerd_client.repeating.FIRST_BACKOFF", 0.01)

    async def page(_request: web.Request) -> web.StreamResponse:
        return relay.page(status, **({"Location": "https://login.example.com/"} if status == 302 else {}))

    done = await server.submit()
    async with worker(relay, upload):
        await server.job(done["id"], wait="20s")
    relay.hook = first(2, page)
    before = len(relay.requests)
    async with ComposerClient(relay.url, patience=20) as composer:
        job = await composer.submit("later", args=1)
        (graph,) = await composer.submit_graph([{"type": "later"}])
        assert (await composer.get(job.id)).id == job.id
        assert await composer.args(job.id) == b"1"
        assert (await composer.why(job.id)).id == job.id
        assert {one.id async for one in composer.list(state="ready")} == {job.id, graph.id}
        assert [one async for one in composer.dependents(job.id)] == []
        assert await composer.workers() == []
        assert (await composer.cancel(job.id)).canceled
        assert (await composer.wait(job.id)).state == "canceled"
        await composer.delete(job.id)
        assert json.loads(await composer.result(done["id"])) == {"n": 1}
        artifact = (await composer.artifacts(done["id"]))[0]
        assert (await composer.download(artifact, tmp_path)).read_bytes() == DATA
        with pytest.raises(RequestFailed) as gone:
            await composer.delete(job.id)
        assert gone.value.number == 32
        with pytest.raises(RequestFailed) as missing:
            await composer.get(job.id)
        assert missing.value.number == 32
    assert len(relay.requests) - before >= 3 * 14


@pytest.mark.parametrize("status", [503, 507, 504, 200, None])
async def test_a_lost_answer_to_a_change(server: Server, relay: Relay, status: int | None) -> None:
    """If a change was made and a page came, or the connection broke, the client asks again and makes no second job."""
    lost = 0

    async def lose(request: web.Request) -> web.StreamResponse | None:
        nonlocal lost
        if request.method == "GET" or lost % 2:
            lost += request.method != "GET"
            return None
        lost += 1
        headers = {"Content_Type": "application/json"} if request.body_exists else {}
        answered, _, _ = await send(server, request.method, request.path_qs, await request.read(), **headers)
        assert answered in (200, 201, 204)
        if status is None:
            assert request.transport is not None
            request.transport.close()
        return relay.page(status or 200)

    relay.hook = lose
    async with ComposerClient(relay.url, patience=20) as composer:
        job = await composer.submit("build")
        graph = await composer.submit_graph([{"type": "build"}, {"type": "build"}])
        assert {one.id async for one in composer.list()} == {job.id, *(one.id for one in graph)}
        assert (await composer.cancel(job.id)).state == "canceled"
        await composer.delete(job.id)
        with pytest.raises(RequestFailed, match="Job not found"):
            await composer.get(job.id)
    assert lost == 8


async def test_a_lost_answer_to_the_command(server: Server, relay: Relay) -> None:
    """`composerd submit` makes one job, also if a proxy answers 503 after the server has stored it."""
    lost: list[bytes] = []

    async def lose(request: web.Request) -> web.StreamResponse | None:
        if request.method == "GET" or lost:
            return None
        body = await request.read()
        lost.append((await send(server, "POST", request.path, body, Content_Type="application/json"))[2])
        return relay.page(503)

    relay.hook = lose
    ended = await composerd("submit", "build", "--server", relay.url)
    assert (ended.code, ended.out.strip()) == (0, json.loads(lost[0])["id"]), ended
    _, listed = await server.request("GET", f"{COMPOSER}/jobs")
    assert len(listed["items"]) == 1


async def test_a_submission_of_which_nothing_is_known(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no answer comes at all, `composerd submit` says with which key it can be repeated, and exits with 3."""
    monkeypatch.setattr(submit, "_ASKED_FOR", 0.5)

    async def page(_request: web.Request) -> web.StreamResponse:
        return relay.page(503)

    relay.hook = page
    job: dict[str, Any] = {"type": "build", "args": msgspec.UNSET}
    with pytest.raises(Failure, match=r"may have been stored or not; run .* with --key composerd-client-") as raised:
        await submit._submit(Connected(server=relay.url), job, waits=False, downloads=None, as_json=False)
    assert raised.value.exit_code == 3
    keys = {json.loads(await request.read())["idempotency_key"] for request in relay.requests}
    assert len(keys) == 1
    assert keys.pop() in str(raised.value)


@pytest.mark.parametrize("status", [411, 413, 414, 431])
async def test_what_a_proxy_refuses_for_good(relay: Relay, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A submission, a file and progress that a proxy refuses as too large fail at once, with size and proxy."""

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        return relay.page(status) if len(await request.read()) > 2000 else None

    async def handler(job: JobContext) -> str:
        await job.progress("x" * 3000)
        await job.progress("y" * 4000)
        await job.upload("disk.img", DATA)
        return "done"

    relay.hook = refuse
    async with ComposerClient(relay.url, patience=60) as composer:
        with pytest.raises(ProxyAnswered, match=rf"of 3\d\d\d bytes was refused: {status} from a proxy \(nginx\)"):
            await composer.submit("build", args="x" * 3000)
        job = await composer.submit("build")
        async with worker(relay, handler):
            ended = await composer.wait(job.id)
    reason = ended.result["job_error"]["reason"]
    assert (ended.state, ended.retries) == ("failed", 0)
    assert f"the file 'disk.img' of {len(DATA)} bytes was not stored: {status} from a proxy (nginx)" in reason
    assert sum([len(await request.read()) > 2000 for request in relay.requests]) == 4
    assert len(re.findall(r"progress of \d+ bytes dropped", caplog.text)) == 1


async def test_a_failure_that_cannot_be_delivered(serve: Serve) -> None:
    """If a proxy refuses even the report of the failure, the worker keeps the job until the report is delivered."""
    server = await serve("--heartbeat-timeout", "1s", "--sweep-interval", "100ms")
    refused = asyncio.Event()
    late = asyncio.Event()
    heartbeats = 0

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        nonlocal heartbeats
        heartbeats += request.method == "GET" and refused.is_set()
        if heartbeats == 12:  # three leases
            late.set()
        if request.method != "PATCH" or late.is_set():
            return None
        refused.set()
        return web.Response(status=413, text="too large", content_type="text/html")

    async with relaying(server.url) as relay:
        relay.hook = refuse
        job = await server.submit()
        async with worker(relay, lambda _job: "x" * 100):
            ended = await server.job(job["id"], wait="30s")
    assert (ended["state"], ended["retries"]) == ("failed", 0)
    assert "The result of 102 bytes was refused: 413 from a proxy" in ended["result"]["job_error"]["reason"]


async def test_a_request_for_a_job_is_never_too_large(server: Server, relay: Relay) -> None:
    """A worker survives a proxy that refuses its small requests as too large, as a broken one does."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        return relay.page(431 if request.method == "GET" else 413)

    relay.hook = first(1, refuse)
    job = await server.submit()
    async with worker(relay, lambda _job: asyncio.sleep(0.2)):
        ended = await server.job(job["id"], wait="20s")
    assert ended["retries"] == 0


async def test_the_log_of_an_outage(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The log has one line while something else answers all requests, with what came, and one at the end."""
    away = asyncio.Event()
    back = asyncio.Event()
    refused = 0

    async def page(_request: web.Request) -> web.StreamResponse | None:
        nonlocal refused
        if not away.is_set() or back.is_set():
            return None
        refused += 1
        if refused == 10:
            back.set()
        text = "<html><head><title>We are\n moving</title></head><body>Come again.</body></html>"
        return web.Response(status=503, text=text, content_type="text/html", headers={"Server": NAME})

    async def handler(job: JobContext) -> None:
        started.append(job.id)
        if len(started) == 3:
            away.set()
        await back.wait()

    started: list[str] = []
    server = await serve("--heartbeat-timeout", "2s")  # so each heartbeat waits for less than a second
    jobs = [await server.submit() for _ in range(3)]
    with caplog.at_level(logging.INFO):
        async with relaying(server.url) as relay, worker(relay, handler, concurrency=3):
            relay.hook = page
            for job in jobs:
                assert (await server.job(job["id"], wait="60s"))["state"] == "finished"
    said = [record.getMessage() for record in caplog.records if record.name == "composerd_client.outages"]
    begun = [line for line in said if line.startswith("cannot ")]
    assert len(begun) == 1
    assert "503 from a proxy (nginx), not from composerd: " in begun[0]
    assert begun[0].endswith("; its page says 'We are moving'")
    assert [line.partition(",")[0] for line in said if line not in begun] == ["the server answers again"]


async def test_one_line_for_all_errors_of_connections(caplog: pytest.LogCaptureFixture) -> None:
    """A server that ends closes connections and then refuses them: the log has one line, and one at the end."""
    caplog.set_level("INFO")
    outages = Outages()
    with outages.of("renew the lease of job 1") as first, outages.of("report the result of job 2") as second:
        first.failed(ServerUnreachable("Server disconnected"))
        second.failed(ServerUnreachable("Server disconnected"))
        first.failed(ServerUnreachable("Connection refused", sent=False))
        second.failed(ServerUnreachable("Connection refused", sent=False))
    assert [line.partition(",")[0] for line in caplog.messages] == [
        "cannot renew the lease of job 1",
        "the server answers again",
    ]


@pytest.mark.parametrize("how", ["page", "page with id", "cut", "other file"])
async def test_a_download_through_a_proxy(server: Server, relay: Relay, tmp_path: Path, how: str) -> None:
    """A page in place of an artifact is never stored, and a download that breaks off goes on where it was."""
    data = DATA * 10
    job = await server.submit()
    async with worker(relay, lambda job: job.upload("disk.img", data)):
        await server.job(job["id"], wait="20s")
    ranges: list[str] = []

    async def spoil(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith("/disk.img"):
            return None
        ranges.append(request.headers.get("Range", ""))
        if how == "cut" and len(ranges) < 4:
            begin = int(ranges[-1].removeprefix("bytes=").removesuffix("-") or 0)
            status, headers, body = await send(server, "GET", request.path)
            assert status == 200
            response = web.StreamResponse(
                status=206 if begin else 200,
                headers={"X-Operation-Id": str(uuid.uuid4()), "ETag": headers["ETag"]}
                | ({"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}),
            )
            response.content_length = len(data) - begin
            await response.prepare(request)
            await response.write(body[begin : begin + 300_000])
            assert request.transport is not None
            request.transport.close()
            return response
        if how != "cut" and len(ranges) < 3:
            body = b"y" * len(data) if how == "other file" else b"<html>maintenance</html>"
            headers = {} if how == "page" else {"X-Operation-Id": str(uuid.uuid4())}
            etag = {"ETag": '"0000"'} if how == "other file" else {}
            return web.Response(body=body, headers={**headers, **etag})
        return None

    relay.hook = spoil
    async with ComposerClient(relay.url, patience=20) as composer:
        (artifact,) = await composer.artifacts(job["id"])
        path = await composer.download(artifact, tmp_path / "in")
        assert path.read_bytes() == data
    ranges.clear()
    assert [one.name for one in (tmp_path / "in").iterdir()] == ["disk.img"]
    async with ComposerClient(relay.url, patience=0) as composer:
        with pytest.raises(ServerUnreachable if how == "cut" else ProxyAnswered):
            await composer.download(artifact, tmp_path / "no")
    assert list((tmp_path / "no").iterdir()) == []
