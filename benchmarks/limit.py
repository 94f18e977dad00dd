"""The limit: a bare aiohttp application that parses the same requests and answers JSON of the same sizes, and does nothing else.

It stores nothing. Its answers are those that composerd gave once, read from the file named on its command line. Its
handover is a queue of futures: what waiting costs in aiohttp alone.
"""

import asyncio
import sys
from collections import OrderedDict
from pathlib import Path

import msgspec
from aiohttp import web

HANDOVER = "handover"
"""The type whose jobs are waited for; a request for any other is answered at once."""

AS_IT_COMES = "--as-it-comes"
"""Behind the file's name: with the allocator as a process has it at its start."""

Fields = dict[str, msgspec.Raw]
"""An object whose values stay the bytes that they are, as composerd leaves args and results."""


class Answers(msgspec.Struct):
    """The bodies to answer with, decoded once so that each answer is encoded anew."""

    submitted: Fields
    job: Fields
    updated: Fields
    alive: Fields


class Limit:
    """The operations that are measured."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    async def submit(self, request: web.Request) -> web.Response:
        """Answer like submitJob."""
        job = _decode(await request.read())
        if bytes(job["type"]) == _HANDOVER:
            self._waiters.popitem(last=False)[0].set_result(None)
        return _json(201, self._answers.submitted)

    async def request_job(self, request: web.Request) -> web.Response:
        """Answer like RequestJob."""
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
        """Answer like UpdateJob."""
        _decode(await request.read())
        return _json(200, self._answers.updated)

    async def get_job(self, _request: web.Request) -> web.Response:
        """Answer like GetJob."""
        return _json(200, self._answers.alive)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Say how many wait."""
        return web.Response(text=f"composerd_waits {len(self._waiters)}\n")


_HANDOVER = msgspec.json.encode(HANDOVER)
_decode = msgspec.json.Decoder(Fields).decode


def _json(status: int, body: Fields) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


async def serve(answers: Answers) -> None:
    """Serve on a free port until the process is ended."""
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
    """Free one large block.

    asyncio reads into a new buffer of 256 KiB, which glibc maps and unmaps for every read, at a third of the throughput,
    until a block of that size has been freed once: then it keeps them on the heap. A server that has answered large
    requests is past that, so the limit is, too, unless it is to be measured as it comes.
    """
    block = bytearray(1 << 20)
    del block


def main() -> None:
    """Serve what the command line names."""
    answers, *how = sys.argv[1:]
    if how != [AS_IT_COMES]:
        warm_allocator()
    asyncio.run(serve(msgspec.json.decode(Path(answers).read_bytes(), type=Answers)))


if __name__ == "__main__":
    main()
