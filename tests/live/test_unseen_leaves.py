"""Requests for jobs whose clients have gone without the server seeing it, behind a proxy that does not pass it on."""

import asyncio
import json
from typing import Any

from .conftest import Serve, Server, until_waiting
from .relay import Relay, relay_to
from .test_waiting import raw_request

ASK = {"types": ["build"], "arch": "x86_64", "confirm": True}


async def ask_and_leave(relay: Relay, server: Server, count: int, **fields: Any) -> None:
    """Let so many clients ask for a job through the proxy, and go away."""
    ended = relay.ended
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection(*relay.address)
        writer.write(raw_request(ASK | fields))
        writers.append(writer)
    await until_waiting(server, count)
    for writer in writers:
        writer.close()

    async def holds() -> bool:
        return relay.ended == ended + count

    await server.until(holds)


class Live:
    """A worker behind the proxy: it takes a job, finishes it, and asks again on the same connection."""

    def __init__(self, relay: Relay, took: "asyncio.Queue[dict[str, Any]]") -> None:
        self._relay = relay
        self._took = took

    async def run(self) -> None:
        """Work until canceled."""
        reader, writer = await asyncio.open_connection(*self._relay.address)
        try:
            while True:
                writer.write(raw_request(ASK))
                job = await _answer(reader)
                data = b'{"result": null}'
                head = f"PATCH {job['location']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
                await _answer(reader)
                self._took.put_nowait(job)
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    return json.loads(await reader.readexactly(length))  # type: ignore[no-any-return]


async def test_jobs_go_to_those_that_are_surely_there(serve: Serve) -> None:
    """With 3 dead and 6 live requests behind one proxy, 12 jobs one after the other all go to the live ones."""
    server = await serve("--handover-timeout", "60s")
    async with relay_to(server.address) as relay:
        await ask_and_leave(relay, server, 3)
        took: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(Live(relay, took).run()) for _ in range(6)]
            for _ in range(12):
                await until_waiting(server, 9)
                submitted = await server.submit()
                async with asyncio.timeout(30):
                    assert (await took.get())["id"] == submitted["id"]
            for worker in workers:
                worker.cancel()
