"""Requests for jobs whose clients have gone without the server seeing it, behind a proxy that does not pass it on."""

import asyncio
import json
import re
from typing import Any

from ..throwaway import Throwaway
from .conftest import Serve, Server, until_waiting
from .relay import relay_to
from .test_waiting import raw_request

ASK = {"types": ["build"], "arch": "x86_64", "confirm": True}


Address = tuple[str, int]
Jobs = asyncio.Queue[dict[str, Any]]


async def ask_and_leave(proxy: Address, server: Server, count: int) -> None:
    """Make this number of clients ask for a job through a proxy, and go away."""
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection(*proxy)
        writer.write(raw_request(ASK))
        writers.append(writer)
    await until_waiting(server, count)
    for writer in writers:
        writer.close()
        await writer.wait_closed()


async def work(proxy: Address, took: Jobs) -> None:
    """Take one job after the other through a proxy, finish it, and ask again on the same connection, until canceled."""
    reader, writer = await asyncio.open_connection(*proxy)
    try:
        while True:
            writer.write(raw_request(ASK))
            job = await _answer(reader)
            data = b'{"result": null}'
            head = f"PATCH {job['location']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            await _answer(reader)
            took.put_nowait(job)
    finally:
        writer.close()


async def hand_over_past_the_dead(server: Server, proxy: Address) -> None:
    """Make 3 dead and 6 live requests wait behind a proxy, and check that 12 jobs all go to live ones, at once."""
    await ask_and_leave(proxy, server, 3)
    took: Jobs = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work(proxy, took)) for _ in range(6)]
        for _ in range(12):
            await until_waiting(server, 9)  # the server still counts the dead ones
            submitted = await server.submit()
            async with asyncio.timeout(30):
                assert (await took.get())["id"] == submitted["id"]
        for worker in workers:
            worker.cancel()


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    return json.loads(await reader.readexactly(length))  # type: ignore[no-any-return]


async def test_jobs_go_to_those_that_are_surely_there(serve: Serve) -> None:
    """With 3 dead and 6 live requests behind one proxy, 12 jobs one after the other all go to the live ones."""
    server = await serve("--handover-timeout", "60s")
    async with relay_to(server.address) as relay:
        await hand_over_past_the_dead(server, relay.address)


async def unanswered(server: Server) -> int:
    """Return how many handovers went unanswered, as the server's metrics say."""
    _, text = await server.request("GET", "/metrics")
    return int(float(re.findall(rb"^composerd_unanswered_handovers_total (\S+)$", text, re.MULTILINE)[0]))


async def test_hand_overs_that_nobody_answers_are_said(serve: Serve) -> None:
    """Jobs that go to clients that have gone are counted, and the log and `/readyz` name the address of the proxy."""
    server = await serve("--handover-timeout", "300ms", "--sweep-interval", "1s")
    assert await server.request("GET", "/readyz") == (200, b"ready\n")
    async with relay_to(server.address) as relay:
        await ask_and_leave(relay.address, server, 4)
        for _ in range(4):
            await server.submit()

        async def counted() -> bool:
            return await unanswered(server) == 4

        await server.until(counted)
    status, text = await server.request("GET", "/readyz")
    assert status == 200
    ready, problem = text.decode().splitlines()
    assert (ready, problem) == (
        "ready",
        "jobs that were handed over go unanswered: 4 within a minute, 4 of them at 127.0.0.1",
    )
    assert b"jobs that were handed over went unanswered within a minute" in server.log
    assert b"at 127.0.0.1: if a proxy is there" in server.log
    for _ in range(4):
        job = await server.ask()
        assert job is not None
        assert (await server.job(job["id"]))["retries"] == 0


async def test_a_call_to_another_server_is_an_answer(serve: Serve, newest_postgres: Throwaway) -> None:
    """A handover counts at the server that made it, and not if its worker has called another server."""
    url = newest_postgres.fresh()
    options = ("--handover-timeout", "500ms", "--heartbeat-timeout", "3s", "--sweep-interval", "1s")
    first, second = [await serve(*options, storage=url) for _ in range(2)]
    for _ in range(2):
        await first.submit()
    answered, ignored = [await first.ask(confirm=True) for _ in range(2)]
    assert answered is not None
    assert ignored is not None
    assert (await second.request("GET", answered["location"]))[0] == 200

    async def over() -> bool:
        return (await first.job(answered["id"]))["retries"] == 1 and await unanswered(first) > 0

    await first.until(over)
    assert [await unanswered(one) for one in (first, second)] == [1, 0]
    assert (await first.job(ignored["id"]))["retries"] == 0
