"""The Python client with failing servers and proxies: which requests are repeated, and which errors it raises."""

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from composerd_client import (
    ClientError,
    ComposerClient,
    GraphJob,
    JobContext,
    OutcomeUnknown,
    RequestFailed,
    UnexpectedAnswer,
    Worker,
)

from .conftest import NOBODY, Serve

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answers = list[web.Response | None]


def about(kind: str, path: str, id: str = "", **fields: Any) -> dict[str, Any]:
    """Return an object as composerd answers it."""
    return {"kind": kind, "href": path, "id": id, **fields}


def answered(body: Any = None, status: int = 200) -> web.Response:
    """Return an answer of composerd: with a JSON body, or none."""
    headers = {"X-Operation-Id": str(uuid.uuid4())}
    if body is None:
        return web.Response(status=status, headers=headers)
    return web.json_response(body, status=status, headers=headers)


def refusal(status: int, number: int = 0) -> web.Response:
    """Return one of composerd's errors, or without a number an error page of a proxy."""
    if not number:
        return web.Response(status=status, text="<html>no</html>", content_type="text/html")
    request_id = str(uuid.uuid4())
    error = about("Error", "", str(number), reason="It is so.", details="who knows", operation_id=request_id)
    return web.json_response(error, status=status, headers={"X-Operation-Id": request_id})


class Double:
    """A fake server that assigns one job, and gives planned answers before its normal ones."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, Answers] = {"GET": [], "PATCH": [], "PUT": []}
        """The planned answers by method; None stands for a normal answer."""
        self.results: list[Any] = []
        """The results that were accepted."""
        self._assigned = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        body = await request.read()
        if request.path == "/api/worker/v1/jobs":
            if self._assigned:
                return answered(status=204)
            self._assigned = True
            location = f"/api/worker/v1/jobs/{NOBODY}"
            attempt = {"type": "a", "location": location, "artifact_location": f"{location}/artifacts/"}
            return answered(about("RequestJob", request.path, NOBODY, **attempt), 201)
        planned = self.answers[request.method]
        if planned and (answer := planned.pop(0)) is not None:
            return answer
        if request.method == "GET":
            if "wait" in request.query:
                await asyncio.sleep(0.2)  # wait, like a real server
            return answered(about("JobStatus", request.path, NOBODY, canceled=False))
        if request.method == "PATCH" and "result" in (report := json.loads(body)):
            self.results.append(report["result"])
        return answered(about("UpdateJobResponse", request.path, NOBODY) if request.method == "PATCH" else None)


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """Serve every request with a function for the length of a block, and yield the server's URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    """Start a fake server."""
    double = Double()
    async with serving(double.serve) as url:
        double.url = url
        yield double


async def one_job(double: Double, handler: Callable[[JobContext], Any]) -> Any:
    """Let a worker run the job, and return its accepted result."""
    worker = Worker(double.url, arch="x")
    worker.handler("a")(handler)
    async with asyncio.timeout(30):
        await worker.run(jobs=1)
    (result,) = double.results
    return result


@pytest.mark.parametrize("status", [500, 502, 503, 504, 507])
async def test_no_job_is_lost_while_a_server_fails(double: Double, status: int) -> None:
    """If a server or a proxy fails for a while, the handler continues, and everything is reported later."""

    async def handler(job: JobContext) -> str:
        await job.progress(1)
        await job.upload("a", b"x")
        return "done"

    double.answers["GET"] = [refusal(status), None, refusal(status)]
    double.answers["PATCH"] = [refusal(status), refusal(status)]
    double.answers["PUT"] = [refusal(status)]
    assert await one_job(double, handler) == "done"


@pytest.mark.parametrize(("status", "number"), [(400, 10), (400, 19), (413, 27)])
async def test_a_refused_result(double: Double, status: int, number: int) -> None:
    """If the server refuses a result, the job fails with the server's reason before its lease expires."""
    double.answers["PATCH"] = [refusal(status, number)]
    result = await one_job(double, lambda _job: "x" * 100)
    assert result["job_error"]["reason"] == "The server refused the result of 102 bytes: It is so."


async def test_a_handler_that_cancels_itself(double: Double) -> None:
    """If a handler cancels itself, its job fails, and the worker continues."""

    async def handler(_job: JobContext) -> None:
        raise asyncio.CancelledError

    result = await one_job(double, handler)
    assert result["job_error"]["reason"] == "The handler was canceled, but not the job."


async def test_a_second_stop_does_not_wait_for_the_server(serve: Serve) -> None:
    """A worker that is stopped twice ends even if its server stays unavailable."""
    server = await serve()
    worker = Worker(server.url, arch="x86_64")

    @worker.handler("build")
    async def build(_job: JobContext) -> None:
        server.kill()
        await server.exited()
        gone.set()

    gone = asyncio.Event()
    await server.submit()
    running = asyncio.create_task(worker.run())
    await gone.wait()
    worker.stop()
    worker.stop()
    async with asyncio.timeout(20):
        await running


async def test_answers_of_another_server(double: Double) -> None:
    """Answers of a server that is not composerd raise an error of the client."""
    double.answers["GET"] = [
        web.Response(text="<html>welcome</html>", content_type="text/html"),
        web.json_response({"id": "teapot", "details": ["no"]}, status=418),
    ]
    async with ComposerClient(double.url, patience=0) as composer:
        with pytest.raises(UnexpectedAnswer, match="not from composerd"):
            await composer.get(NOBODY)
        with pytest.raises(RequestFailed, match=r"418 from a proxy \(Python.*not from composerd") as failed:
            await composer.get(NOBODY)
    assert (failed.value.number, failed.value.details) == (0, {})


@pytest.mark.parametrize(
    "server",
    [
        "",
        "http://",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://h:1?x=1",
        "http://a..b:80",
        "unix:",
        "ftp://h:1",
        "http://\udcff:1",
    ],
)
async def test_invalid_server_urls(server: str) -> None:
    """An invalid server URL raises `ValueError` with the URL, before any request."""
    with pytest.raises(ValueError, match="is not a server") as refused:
        ComposerClient(server)
    assert not isinstance(refused.value, ClientError)
    assert repr(server) in str(refused.value)


@pytest.mark.parametrize("key", ["k", None])
async def test_an_unknown_outcome(key: str | None) -> None:
    """A submission of unknown outcome, alone or in a graph, is repeated with its key, which the client makes if needed.

    Without patience it raises `OutcomeUnknown`.
    """
    posts: list[tuple[str, Any]] = []
    nothing = ("arch", "not_before", "started_at", "finished_at", "worker_id", "expires_at")
    job: dict[str, Any] = dict.fromkeys(nothing)
    job |= about("Job", "", NOBODY, type="a", channel="", state="ready", priority=0, retries=0, canceled=False)
    job |= {"queued_at": "2026-01-31T12:00:00Z", "dependencies": []}

    async def answer(request: web.Request) -> web.StreamResponse:
        sent = await request.json()
        posts.append((request.path, sent))
        if len(posts) % 2:
            return refusal(504, 40)
        jobs = [job | {"idempotency_key": one["idempotency_key"]} for one in sent.get("jobs", [sent])]
        return answered(about("JobList", "", items=jobs) if "jobs" in sent else jobs[0], 201)

    graph: list[GraphJob] = [{"type": "a", "idempotency_key": key}, {"type": "a", "idempotency_key": "other"}]
    async with serving(answer) as url:
        async with ComposerClient(url, patience=30) as composer:
            await composer.submit("a", idempotency_key=key)
            await composer.submit_graph(graph)
        assert posts[0] == posts[1]
        assert posts[2] == posts[3]
        assert {path.rpartition("/")[2] for path, _ in posts} == {"jobs", "batch"}
        keys = [posts[0][1]["idempotency_key"], *(one["idempotency_key"] for one in posts[2][1]["jobs"])]
        if key is None:
            assert keys[0] != keys[1]
            assert all(re.fullmatch(r"composerd-client-[0-9a-f]{32}", one) for one in keys[:2])
        else:
            assert keys == ["k", "k", "other"]
        async with ComposerClient(url, patience=0) as composer:
            with pytest.raises(OutcomeUnknown) as raised:
                await composer.submit("a", idempotency_key=key)
        assert (raised.value.status, raised.value.number) == (504, 40)


async def test_a_result_of_unknown_outcome_is_repeated(double: Double) -> None:
    """A worker repeats a result, an upload and a heartbeat whose outcome the server does not know."""
    double.answers["PATCH"] = [refusal(504, 40)]
    double.answers["PUT"] = [refusal(504, 40)]

    async def handler(job: JobContext) -> Any:
        await job.upload("log.txt", b"1")
        return {"n": 1}

    assert await one_job(double, handler) == {"n": 1}
