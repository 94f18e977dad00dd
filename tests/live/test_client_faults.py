"""The Python client before servers and proxies that fail: what is asked again, what is given up, and what is said then."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from composerd.client import ClientError, ComposerClient, JobContext, RequestFailed, UnexpectedAnswer, Worker

from .conftest import NOBODY, Serve

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answers = list[web.Response | None]


def refusal(status: int, number: int = 0) -> web.Response:
    """A predefined error; without a number, what a proxy says."""
    if not number:
        return web.Response(status=status, text="<html>no</html>", content_type="text/html")
    return web.json_response(
        {"kind": "Error", "id": str(number), "reason": "It is so.", "details": "who knows"}, status=status
    )


class Double:
    """In the place of a server: hands out one job, and answers what it is told to before it answers as it should."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, Answers] = {"GET": [], "PATCH": [], "PUT": []}
        """What to answer first, by method; None: as it should be."""
        self.results: list[Any] = []
        """The results that were reported and accepted."""
        self.released = False
        self._handed_out = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer anything."""
        body = await request.read()
        if request.path == "/api/worker/v1/jobs":
            if self._handed_out:
                return web.Response(status=204)
            self._handed_out = True
            location = f"/api/worker/v1/jobs/{NOBODY}"
            handed = {"id": NOBODY, "type": "a", "location": location, "artifact_location": f"{location}/artifacts/"}
            return web.json_response(handed, status=201)
        if request.path.endswith("/release"):
            self.released = True
            return web.json_response({})
        planned = self.answers[request.method]
        if planned and (answer := planned.pop(0)) is not None:
            return answer
        if request.method == "GET":
            if "wait" in request.query:
                await asyncio.sleep(0.2)  # as a server would hold it
            return web.json_response({"canceled": False})
        if request.method == "PATCH" and "result" in (told := json.loads(body)):
            self.results.append(told["result"])
        return web.json_response({})


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    """One that listens."""
    double = Double()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", double.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    double.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield double
    await runner.cleanup()


async def one_job(double: Double, handler: Callable[[JobContext], Any]) -> Any:
    """Let a worker run the job; its accepted result."""
    worker = Worker(double.url, arch="x")
    worker.handler("a")(handler)
    async with asyncio.timeout(30):
        await worker.run(jobs=1)
    (result,) = double.results
    return result


@pytest.mark.parametrize("status", [500, 502, 503, 504, 507])
async def test_a_server_that_fails_for_a_while_costs_no_job(double: Double, status: int) -> None:
    """A proxy without its server, a full disk, a server that drains: the handler goes on, and everything is reported later."""

    async def handler(job: JobContext) -> str:
        await job.progress(1)
        await job.upload("a", b"x")
        return "done"

    double.answers["GET"] = [refusal(status), None, refusal(status)]
    double.answers["PATCH"] = [refusal(status), refusal(status)]
    double.answers["PUT"] = [refusal(status)]
    assert await one_job(double, handler) == "done"


@pytest.mark.parametrize(("status", "number"), [(400, 10), (400, 19), (413, 27)])
async def test_a_result_that_is_refused(double: Double, status: int, number: int) -> None:
    """The job fails with the server's reason; nobody waits for its lease to run out."""
    double.answers["PATCH"] = [refusal(status, number)]
    result = await one_job(double, lambda _job: "x" * 100)
    assert result["job_error"]["reason"] == "The result was refused, 102 bytes: It is so."


async def test_a_handler_that_cancels_itself(double: Double) -> None:
    """Its job fails, and the worker goes on."""

    async def handler(_job: JobContext) -> None:
        raise asyncio.CancelledError

    result = await one_job(double, handler)
    assert result["job_error"]["reason"] == "The handler was canceled, but not the job."


async def test_a_worker_told_twice_to_stop_does_not_wait_for_its_server(serve: Serve) -> None:
    """Its job is done, and the server is away for ever: it ends all the same."""
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


async def test_what_is_no_composerd(double: Double) -> None:
    """Another server's answers are an error of the client, with whatever it said for a reason."""
    double.answers["GET"] = [
        web.Response(text="<html>welcome</html>", content_type="text/html"),
        web.json_response({"id": "teapot", "details": ["no"]}, status=418),
    ]
    async with ComposerClient(double.url) as composer:
        with pytest.raises(UnexpectedAnswer, match="no composerd"):
            await composer.get(NOBODY)
        with pytest.raises(RequestFailed, match="HTTP 418") as failed:
            await composer.get(NOBODY)
    assert (failed.value.number, failed.value.details) == (0, {})


async def test_patience_with_a_full_disk(double: Double) -> None:
    """Nothing was done, so a submit is sent again though it has no key; a proxy's error says nothing of the kind."""
    async with ComposerClient(double.url, patience=20) as composer:
        for status, expected in ((507, UnexpectedAnswer), (502, RequestFailed)):
            double.answers["POST"] = [refusal(status)]
            with pytest.raises(expected):  # `{}` is the double's answer to what it knows nothing of
                await composer.submit("a")
            assert double.answers["POST"] == []


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
async def test_what_is_no_server(server: str) -> None:
    """It is refused before anything is asked, by its name."""
    with pytest.raises(ValueError, match="is not a server") as refused:
        ComposerClient(server)
    assert not isinstance(refused.value, ClientError)
    assert repr(server) in str(refused.value)
