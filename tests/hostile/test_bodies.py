"""Bodies that are announced and not sent, sent and not ended, or sent too slowly."""

import asyncio
import json
from collections.abc import Callable

from .conftest import COMPOSER, WORKER, Attacker, Client, Connection, Serve, Server, head, status_of

Attack = Callable[[Server], Attacker]
Quiet = Callable[[Server], Client]

MEBIBYTE = 1024 * 1024
CHUNKED = head("POST", f"{COMPOSER}/jobs", "Transfer-Encoding: chunked")
BEGIN = b'{"type":"a","args":"'


async def held(client: Client, account: str) -> int:
    """Return how many bytes the server counts in an account."""
    text = (await client.request("GET", "/metrics"))[1].decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f'composerd_held_bytes{{account="{account}"')]
    return int(float(line.rpartition(" ")[2]))


async def trickled(connection: Connection, part: bytes = b" ") -> int:
    """Send a little of a body again and again, and return the status of the answer."""
    answered = asyncio.ensure_future(status_of(connection))
    while not answered.done():
        connection[1].write(part)
        await asyncio.wait([answered], timeout=0.05)
    return await answered


async def test_announced_bodies_hold_nothing(serve: Serve, attacker: Attack, client: Quiet) -> None:
    """Heads that announce 512 MiB keep nobody from submitting, waiting and working."""
    server = await serve()
    sender, quiet = attacker(server), client(server)
    for _ in range(17):
        await sender.connect(head("POST", f"{COMPOSER}/jobs", f"Content-Length: {32 * MEBIBYTE}"))
    await quiet.work()
    status, _ = await quiet.request("POST", f"{COMPOSER}/jobs", {"type": "large", "args": "x" * MEBIBYTE})
    assert status == 201
    async with asyncio.timeout(10):
        status, _ = await quiet.request("POST", f"{WORKER}/jobs?wait=100ms", {"types": ["none"], "arch": "a"})
    assert status == 204
    assert await held(quiet, "submissions") == 0


async def test_what_has_arrived_counts(serve: Serve, attacker: Attack, client: Quiet) -> None:
    """An unfinished chunked body counts for its client until the connection ends, and cannot exceed its share."""
    server = await serve()
    sender, quiet = attacker(server), client(server)
    part = BEGIN + b"x" * (8 * MEBIBYTE)
    sending = [await sender.connect(CHUNKED) for _ in range(13)]
    answered = [asyncio.ensure_future(status_of(one)) for one in sending]
    for _, writer in sending:
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
    done, _ = await asyncio.wait(answered, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    assert {one.result() for one in done} == {503}
    assert 80 * MEBIBYTE < await held(quiet, "submissions") <= 96 * MEBIBYTE
    await quiet.work()
    await sender.close()
    await server.until(lambda: _is_zero(quiet))
    await asyncio.wait(answered)


async def _is_zero(quiet: Client) -> bool:
    return await held(quiet, "submissions") == 0


async def test_a_body_in_small_chunks(serve: Serve, attacker: Attack) -> None:
    """A body in very small chunks that arrives at once is read, also while there is one client only."""
    body = json.dumps({"type": "build", "args": "x" * 200_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert await status_of(await attacker(await serve()).connect(CHUNKED + chunks)) == 201


async def test_a_body_that_stands_still(serve: Serve, attacker: Attack, client: Quiet) -> None:
    """A body of which nothing more arrives is answered with 503, a small one too, and its bytes are given back."""
    server = await serve("--body-timeout", "300ms")
    sender, quiet = attacker(server), client(server)
    for size in (1000, MEBIBYTE):
        connection = await sender.connect(head("POST", f"{COMPOSER}/jobs", f"Content-Length: {size}") + BEGIN)
        connection[1].write(b"x" * (size - 100))
        assert await status_of(connection) == 503
        rest = await connection[0].readuntil(b"\r\n\r\n")
        assert b"connection: close" in rest.lower()
        assert b"Retry-After" not in rest
    assert await held(quiet, "submissions") == 0


async def test_a_body_that_trickles(serve: Serve, attacker: Attack) -> None:
    """A body that is slower than the minimum rate is answered with 503, however long it would go on."""
    server = await serve("--body-timeout", "300ms", "--min-rate", "100KiB")
    sender = attacker(server)
    fixed = await sender.connect(head("POST", f"{COMPOSER}/jobs", "Content-Length: 10000") + BEGIN)
    assert await trickled(fixed, b"x") == 503
    assert await trickled(await sender.connect(CHUNKED), b"1\r\nx\r\n") == 503
    result = head("PATCH", f"{WORKER}/jobs/12345678-1234-4123-8123-123456789abc", "Content-Length: 10000")
    assert await trickled(await sender.connect(result)) == 503


async def test_bodies_that_nobody_reads(serve: Serve, attacker: Attack, client: Quiet) -> None:
    """A body for an operation that needs none, or a small one, is refused with error 27 when it is not small."""
    server = await serve("--body-timeout", "300ms")
    sender, quiet = attacker(server), client(server)
    status, job = await quiet.request("POST", f"{COMPOSER}/jobs", {"type": "a"})
    assert status == 201
    large = "x" * 20_000
    for method, path in (
        ("GET", job["href"]),
        ("POST", f"{job['href']}/cancel"),
        ("DELETE", job["href"]),
        ("POST", f"{WORKER}/jobs"),
        ("POST", f"{WORKER}/workers"),
        ("POST", f"{WORKER}/workers/{job['id']}/status"),
        ("POST", f"{WORKER}/jobs/{job['id']}/release"),
    ):
        status, error = await quiet.request(method, path, large)
        assert (status, error["id"], error["details"]) == (413, "27", {"limit": 16384}), (method, path)
    for method, path in (("GET", job["href"]), ("POST", f"{job['href']}/cancel")):
        assert await status_of(await sender.connect(head(method, path, "Content-Length: 10"))) == 503
    assert (await quiet.request("GET", f"{job['href']}?wait=10ms", {}))[0] == 200
    assert (await quiet.request("POST", f"{job['href']}/cancel", {"why": "x"}))[0] == 200


async def test_stalled_handovers(serve: Serve, attacker: Attack, client: Quiet) -> None:
    """Workers that take nothing of large jobs fill the share of their client; others get jobs and ends of their waits.

    Their jobs are queued again as soon as they are too slow.
    """
    server = await serve("--body-timeout", "1s")
    sender, quiet = attacker(server), client(server)
    args = "x" * (31 * MEBIBYTE)
    for _ in range(3):
        assert (await quiet.request("POST", f"{COMPOSER}/jobs", {"type": "large", "args": args}))[0] == 201
    body = json.dumps({"types": ["large"], "arch": "a"}).encode()
    ask = head("POST", f"{WORKER}/jobs?wait=10s", f"Content-Length: {len(body)}") + body
    taken = [await status_of(await sender.connect(ask)) for _ in range(3)]
    assert taken == [201, 201, 503]
    await quiet.work()
    status, _ = await quiet.request("POST", f"{WORKER}/jobs?wait=50ms", {"types": ["none"], "arch": "a"})
    assert status == 204
    for _ in range(3):
        status, job = await quiet.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["large"], "arch": "a"})
        assert (status, len(job["args"])) == (201, len(args))
    assert await held(quiet, "claims") == 0
