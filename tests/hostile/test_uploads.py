"""Uploads and downloads that do not end, and more files than an attempt may have."""

import asyncio
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMPOSER, WORKER, Attacker, Client, Connection, Serve, Server, status_of

MAKE = Callable[..., Any]
SIZE = 1_000_000


async def attempt_of(server: Server) -> dict[str, Any]:
    """Submit a job, and begin an attempt at it."""
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    return attempt


async def upload(attacker: Attacker, attempt: dict[str, Any], name: str, sent: bytes, size: int = SIZE) -> Connection:
    """Begin an upload of a size, and send only some bytes of it."""
    head = f"PUT {attempt['artifact_location']}{name} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
    return await attacker.connect(head.encode() + sent)


def files_of(server: Server) -> list[Path]:
    """Return the files of all artifacts, and of unfinished uploads."""
    directory = Path(server.storage.removeprefix("fs:")) / "artifacts"
    return [Path(folder) / name for folder, _, names in os.walk(directory) for name in names]


async def until_uploading(server: Server, count: int) -> None:
    """Wait until this number of files is being written."""

    async def holds() -> bool:
        return len(files_of(server)) == count

    await server.until(holds)


async def is_closed(connection: Connection, seconds: float = 15) -> bool:
    """Read all that is left on a connection, and return True once it is closed."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                if not await connection[0].read(1 << 20):
                    return True
            except ConnectionError:
                return True


@pytest.mark.parametrize(("how", "status"), [("finished", 409), ("canceled", 400), ("released", 410), ("expired", 410)])
async def test_an_upload_ends_with_its_attempt(serve: Serve, attacker: MAKE, how: str, status: int) -> None:
    """A stalled upload gets the error for the state of its attempt as soon as that is over, and leaves no file."""
    server = await serve("--heartbeat-timeout", "1s" if how == "expired" else "1h", "--body-timeout", "1h")
    attempt = await attempt_of(server)
    stalled = await upload(attacker(server), attempt, "a", bytes(300_000))
    await until_uploading(server, 1)
    if how == "finished":
        await server.finish(attempt)
    elif how == "canceled":
        await server.request("POST", f"{COMPOSER}/jobs/{attempt['id']}/cancel")
    elif how == "released":
        await server.request("POST", f"{attempt['location']}/release", {})
    assert await status_of(stalled, 5) == status
    await until_uploading(server, 0)


async def test_a_stalled_upload(serve: Serve, attacker: MAKE) -> None:
    """An upload that stands still, and one that trickles, get 503 and leave no file, although the attempt runs."""
    server = await serve("--heartbeat-timeout", "1h", "--body-timeout", "400ms", "--min-rate", "1MiB")
    attempt = await attempt_of(server)
    hostile = attacker(server)
    stalled = await upload(hostile, attempt, "a", bytes(1000))
    trickling = await upload(hostile, attempt, "b", bytes(1000))

    async def trickle() -> None:
        for _ in range(200):
            trickling[1].write(b"x")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(trickle())
    assert await status_of(stalled, 5) == 503
    assert await status_of(trickling, 5) == 503
    task.cancel()
    assert await is_closed(stalled, 3)
    assert await is_closed(trickling, 3)
    assert (await server.finish(attempt))[0] == 200
    await until_uploading(server, 0)


async def test_a_stalled_download(serve: Serve, attacker: MAKE) -> None:
    """A download whose client reads nothing is closed, with its file and its connection, and others go on."""
    server = await serve("--body-timeout", "500ms")
    attempt = await attempt_of(server)
    status, _ = await server.request("PUT", attempt["artifact_location"] + "a", data=io.BytesIO(bytes(32 << 20)))
    assert status == 200
    await server.finish(attempt)
    path = f"{COMPOSER}/jobs/{attempt['id']}/artifacts/a"
    (file,) = files_of(server)

    def open_files() -> int:
        descriptors = Path(f"/proc/{server.pid}/fd")
        return sum(os.path.realpath(one) == str(file) for one in descriptors.iterdir())

    stalled = await attacker(server).connect(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    async def begun() -> bool:
        return open_files() == 1

    async def ended() -> bool:
        return open_files() == 0

    await server.until(begun)
    await server.until(ended, 5)
    assert await is_closed(stalled)
    assert len((await server.request("GET", path))[1]) == 32 << 20


async def test_more_files_than_an_attempt_may_have(serve: Serve) -> None:
    """Of many uploads at one time only as many succeed as the attempt may have; a file can still be replaced."""
    server = await serve("--max-artifacts", "3")
    attempt = await attempt_of(server)

    async def put(name: str) -> tuple[int, Any]:
        return await server.request("PUT", attempt["artifact_location"] + name, data=b"x")

    answers = await asyncio.gather(*[put(f"{n}") for n in range(8)])
    assert sorted(status for status, _ in answers) == [200] * 3 + [413] * 5
    refused = next(body for status, body in answers if status == 413)
    assert (refused["id"], refused["details"]["limit"]) == ("25", 3)
    kept = next(f"{n}" for n, (status, _) in enumerate(answers) if status == 200)
    assert (await put(kept))[0] == 200
    await server.finish(attempt)
    _, listed = await server.request("GET", f"{COMPOSER}/jobs/{attempt['id']}/artifacts")
    assert len(listed["items"]) == 3


async def test_more_bytes_than_an_attempt_may_have(serve: Serve, attacker: MAKE) -> None:
    """Concurrent uploads of an attempt count together while they arrive, so that they never exceed its limit."""
    server = await serve("--max-artifacts-size", "1MiB")
    attempt = await attempt_of(server)
    assert (await server.request("PUT", attempt["artifact_location"] + "a", data=bytes(400_000)))[0] == 200
    hostile = attacker(server)
    head = f"PUT {attempt['artifact_location']}%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n493E0\r\n"
    uploads = [await hostile.connect((head % n).encode() + bytes(300_000) + b"\r\n") for n in range(4)]
    answers = [asyncio.create_task(status_of(one)) for one in uploads]
    assert [await one for one in itertools.islice(asyncio.as_completed(answers), 2)] == [413, 413]
    await until_uploading(server, 3)
    assert sum(path.stat().st_size for path in files_of(server)) <= 1 << 20
    await hostile.close()
    await asyncio.gather(*answers, return_exceptions=True)
    await until_uploading(server, 1)
    status, refused = await server.request("PUT", attempt["artifact_location"] + "b", data=bytes(700_000))
    assert (status, refused["id"], refused["details"]["limit"]) == (413, "25", 1 << 20)
    assert (await server.request("PUT", attempt["artifact_location"] + "a", data=bytes(1 << 20)))[0] == 200


async def test_all_uploads_of_one_client(serve: Serve, attacker: MAKE, client: MAKE) -> None:
    """One client can begin only its share of uploads, and another one uploads and downloads as before."""
    server = await serve("--heartbeat-timeout", "1h", "--body-timeout", "1h")
    attempt = await attempt_of(server)
    hostile = attacker(server)
    answers: list[asyncio.Task[int]] = []
    while not any(one.done() for one in answers):
        assert len(answers) < 700, "every upload goes on"
        uploads = [await upload(hostile, attempt, f"{len(answers)}-{n}", b"x") for n in range(20)]
        answers += [asyncio.create_task(status_of(one)) for one in uploads]
        await asyncio.wait(answers, timeout=0.01 if len(answers) < 300 else 5, return_when=asyncio.FIRST_COMPLETED)
    assert {one.result() for one in answers if one.done()} == {503}
    quiet: Client = client(server)
    status, job = await quiet.request("POST", f"{COMPOSER}/jobs", {"type": "other"})
    assert status == 201
    _, other = await quiet.request("POST", f"{WORKER}/jobs?wait=20s", {"types": ["other"], "arch": "x86_64"})
    assert (await quiet.request("PUT", other["artifact_location"] + "a"))[0] == 200
    assert (await quiet.request("PATCH", other["location"], {"result": 1}))[0] == 200
    assert (await quiet.request("GET", f"{job['href']}/artifacts/a"))[0] == 200
    await hostile.close()
    await asyncio.gather(*answers, return_exceptions=True)
