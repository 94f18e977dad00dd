"""More connections than there may be, connections that do not go on, and descriptors that run out."""

import asyncio
import re
import resource
from collections.abc import Callable
from pathlib import Path

from .conftest import COMPOSER, Attacker, Client, Connection, Serve, Server, head, status_of

HEALTH = head("GET", "/healthz")
STATUS = head("GET", f"{COMPOSER}/status")


async def ended(connection: Connection) -> bytes:
    """Return everything that the server sends on a connection until it closes it."""
    async with asyncio.timeout(20):
        try:
            return await connection[0].read()
        except ConnectionError:
            return b""


async def test_more_connections_than_a_client_may_have(
    serve: Serve, attacker: Callable[..., Attacker], client: Callable[..., Client]
) -> None:
    """A client beyond its share gets one answer on each new connection; its older ones and other clients are served."""
    server = await serve("--max-connections", "8", storage="memory:")
    quiet, greedy = client(server), attacker(server)
    await quiet.work()
    older = [await greedy.connect(STATUS) for _ in range(3)]  # half of the seven that the quiet client leaves
    assert [await status_of(one) for one in older] == [200, 200, 200]
    for _ in range(100):
        await greedy.connect()
    answer = await ended(await greedy.connect(STATUS))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nConnection: close\r\n" in answer
    await quiet.work()
    await client(server).work()
    for _, writer in older:
        writer.write(STATUS)
    for reader, _ in older:
        async with asyncio.timeout(20):
            await reader.readuntil(b"}HTTP/1.1 200 ")  # after the body of the first answer
    assert server.log.count(b"too many connections") == 1


async def test_health_when_all_connections_are_taken(serve: Serve, attacker: Callable[..., Attacker]) -> None:
    """`/healthz` is answered when many clients have taken every connection, whoever asks; everything else is not."""
    server = await serve("--max-connections", "8", storage="memory:")
    greedy = [attacker(server, f"127.0.9.{number}") for number in range(1, 9)]
    for _ in range(2):
        for one in greedy:
            for _ in range(8):
                await one.connect()
    for one in (greedy[0], attacker(server, "127.0.10.1")):
        answer = await ended(await one.connect(HEALTH))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert (await ended(await one.connect(STATUS))).startswith(b"HTTP/1.1 503 ")


async def test_heads_that_do_not_become_complete(serve: Serve, attacker: Callable[..., Attacker]) -> None:
    """A connection without a complete head in time is closed, also if something of it arrives again and again."""
    server = await serve("--body-timeout", "300ms", storage="memory:")
    greedy = attacker(server)
    dripping = [await greedy.connect(), await greedy.connect(STATUS)]
    silent = await greedy.connect()
    assert await status_of(dripping[1]) == 200

    async def drip(connection: Connection) -> None:
        connection[1].write(b"GET /healthz HTTP/1.1\r\nA: ")
        while not connection[1].is_closing():
            connection[1].write(b"x")
            await asyncio.sleep(0.05)

    drips = [asyncio.create_task(drip(one)) for one in dripping]
    for one in (silent, *dripping):
        await ended(one)
        one[1].close()
    await asyncio.gather(*drips)


async def test_a_head_that_is_too_long(serve: Serve, attacker: Callable[..., Attacker]) -> None:
    """A head of more than 32 KiB is refused with error 19 before it is complete."""
    server = await serve(storage="memory:")
    reader, writer = await attacker(server).connect(head("GET", f"{COMPOSER}/status")[:-2])
    for size in (8_100, 8_100, 8_100, 8_100, 600):
        writer.write(b"X-%d: %s\r\n" % (size, b"x" * size))
    answer = await ended((reader, writer))
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b'"id":"19"' in answer


async def test_trailers_without_end(serve: Serve, attacker: Callable[..., Attacker]) -> None:
    """A connection is closed if much more arrives than the body of its request; small chunks are taken."""
    server = await serve(storage="memory:")
    start = head("POST", f"{COMPOSER}/jobs", "Transfer-Encoding: chunked")
    small = await attacker(server).connect(start)
    body = b'{"type":"build","args":"%s"}' % (b"x" * 20_000)
    for begin in range(0, len(body), 1000):
        small[1].write(b"".join(b"1\r\n%c\r\n" % byte for byte in body[begin : begin + 1000]))
        await small[1].drain()
    small[1].write(b"0\r\n\r\n")
    assert await status_of(small) == 201
    reader, writer = await attacker(server).connect(start + b"2\r\n{}\r\n0\r\n")
    for number in range(100):
        writer.write(b"T%d: %s\r\n" % (number, b"x" * 8000))
        await asyncio.sleep(0.001)
    assert await ended((reader, writer)) == b""


async def test_lines_of_the_log(serve: Serve, attacker: Callable[..., Attacker]) -> None:
    """A client cannot fill the log: of many lines about its requests, those beyond 100 a minute are left out."""
    server = await serve(storage="memory:")
    for address, count in (("127.0.9.1", 150), ("127.0.9.2", 1)):
        for _ in range(count):
            await ended(await attacker(server, address).connect(b"nothing\r\n\r\n"))
    lines = [line for line in server.log.splitlines() if b"malformed HTTP request" in line]
    assert [b"127.0.9.1" in line for line in lines] == [True] * 100 + [False]
    assert b"left out" in lines[99]


async def test_descriptors_that_run_out(serve: Serve, attacker: Callable[..., Attacker]) -> None:
    """A server without a free descriptor serves its connections, says that it lives, and recovers by itself."""
    server = await serve(storage="memory:")
    established = await attacker(server).connect(STATUS)
    assert await status_of(established) == 200
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (highest_descriptor(server) + 1, limits[1]))

    async def logged() -> bool:
        await attacker(server).connect()
        await asyncio.sleep(0.02)
        return b"cannot accept connections" in server.log

    await server.until(logged)
    before = cpu_ticks(server)
    assert (await ended(await attacker(server).connect(STATUS))).startswith(b"HTTP/1.1 503 ")
    assert (await ended(await attacker(server).connect(HEALTH))).startswith(b"HTTP/1.1 200 ")
    assert cpu_ticks(server) - before < 30  # of 100 a second: the server does not spin
    established[1].write(STATUS)
    async with asyncio.timeout(20):
        await established[0].readuntil(b"}HTTP/1.1 200 ")
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)

    async def recovered() -> bool:
        return await status_of(await attacker(server).connect(STATUS)) == 200

    await server.until(recovered)
    assert re.findall(rb"cannot accept connections.*|accepting connections again", server.log) == [
        b"cannot accept connections, trying again: Too many open files",
        b"accepting connections again",
    ]


def highest_descriptor(server: Server) -> int:
    """Return the highest number of a descriptor that a server has open."""
    return max(int(one.name) for one in Path(f"/proc/{server.pid}/fd").iterdir())


def cpu_ticks(server: Server) -> int:
    """Return the CPU time that a server has used, in ticks of the kernel."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
