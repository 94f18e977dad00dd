"""The limit: a bare aiohttp application that parses the same requests, and answers JSON of the same sizes.

It stores nothing. Its answers are recorded answers of composerd, read from a file that is named on the command line.
Its handover is a queue of futures, which is the least that waiting costs with aiohttp.
"""

import asyncio
import sys
from collections import OrderedDict
from pathlib import Path

import msgspec
from aiohttp import web

HANDOVER = "handover"
"""The type of jobs that workers wait for; a request for any other type is answered at once."""

AS_IT_COMES = "--as-it-comes"
"""Behind the file's name: with the allocator as a process has it at its start."""

Fields = dict[str, msgspec.Raw]
"""A JSON object whose values are not decoded, as composerd does not decode args and results."""


class Answers(msgspec.Struct):
    """The bodies to answer with, decoded so that every answer has to be encoded again."""

    submitted: Fields
    job: Fields
    updated: Fields
    alive: Fields


class Limit:
    """The endpoints that are measured."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    async def submit(self, request: web.Request) -> web.Response:
        """Answer a submission."""
        job = _decode(await request.read())
        if bytes(job["type"]) == _HANDOVER:
            self._waiters.popitem(last=False)[0].set_result(None)
        return _json(201, self._answers.submitted)

    async def request_job(self, request: web.Request) -> web.Response:
        """Answer a request for a job; jobs of the type `HANDOVER` are waited for."""
        wanted = _decode(await request.read())
        if _HANDOVER in bytes(wanted["types"]):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            except asyncio.CancelledError:
                self._waiters.pop(waiter, None)
                raise
        return _json(201, self._answers.job)

    async def update(self, request: web.Request) -> web.Response:
        """Answer a result."""
        _decode(await request.read())
        return _json(200, self._answers.updated)

    async def get_job(self, _request: web.Request) -> web.Response:
        """Answer a heartbeat."""
        return _json(200, self._answers.alive)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Return the number of waiting requests as a metric."""
        return web.Response(text=f"composerd_waits {len(self._waiters)}\n")


_HANDOVER = msgspec.json.encode(HANDOVER)
_decode = msgspec.json.Decoder(Fields).decode


def _json(status: int, body: Fields) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


async def serve(answers: Answers) -> None:
    """Serve on a free port until the process is stopped."""
    limit = Limit(answers)
    app = web.Application(client_max_size=32 * 1024 * 1024)
    app.router.add_post("/api/composer/v1/jobs", limit.submit)
    app.router.add_post("/api/worker/v1/jobs", limit.request_job)
    app.router.add_patch("/api/worker/v1/jobs/{token}", limit.update)
    app.router.add_get("/api/worker/v1/jobs/{token}", limit.get_job)
    app.router.add_get("/metrics", limit.metrics)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0]
    print(f"listening on http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


def warm_allocator() -> None:
    """Allocate and free one large block.

    asyncio reads into a new buffer of 256 KiB. glibc maps and unmaps it for every read, which costs a third of the
    throughput, until a block of that size has been freed once; from then on glibc keeps such blocks on the heap. A
    server that has answered large requests is in that state, so the limit is too, unless it is measured without.
    """
    block = bytearray(1 << 20)
    del block


def main() -> None:
    """Read the command line, and serve."""
    answers, *how = sys.argv[1:]
    if how != [AS_IT_COMES]:
        warm_allocator()
    asyncio.run(serve(msgspec.json.decode(Path(answers).read_bytes(), type=Answers)))


if __name__ == "__main__":
    main()
