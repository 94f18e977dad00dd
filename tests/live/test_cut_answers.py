"""Requests for jobs that a client sends again by itself, because the connection broke before it had read the answer."""

import asyncio
import contextlib
import io
import itertools
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pycurl
import pytest

from .conftest import COMPOSER, NOBODY, WORKER, Serve, Server, until_waiting
from .test_tls import Files
from .test_waiting import raw_request

ASK = {"types": ["build"], "arch": "x86_64", "confirm": True}
OPTIONS = ("--handover-timeout", "60s", "--heartbeat-timeout", "120s")


def connected(server: Server, window: int | None = None) -> socket.socket:
    """Return a connection, with a receive buffer of this size."""
    connection = socket.socket()
    if window is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.connect(server.address)
    return connection


def reset(connection: socket.socket) -> None:
    """Close a connection with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def ask(server: Server, connection: socket.socket, body: dict[str, Any], args: Any = 1) -> str:
    """Ask for a job on a connection, submit one when the request waits, and return its id when the answer has come."""
    connection.sendall(raw_request(body))
    await until_waiting(server, 1)
    job = await server.submit(args=args)
    readable, _, _ = await asyncio.to_thread(select.select, [connection], [], [], 30)
    assert readable
    return str(job["id"])


def read_answer(connection: socket.socket) -> dict[str, Any]:
    """Read an answer with JSON in it."""
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        data += connection.recv(65536)
    return json.loads(data.partition(b"\r\n\r\n")[2])  # type: ignore[no-any-return]


async def requeued_or_not(server: Server, job_id: str, body: dict[str, Any]) -> bool:
    """Send an equal request on a new connection; return True if it gets the job, False if it waits for another."""
    connection = connected(server)
    connection.sendall(raw_request(body))
    try:
        answer = asyncio.create_task(asyncio.to_thread(read_answer, connection))
        waits = asyncio.create_task(until_waiting(server, 1))
        done, _ = await asyncio.wait([answer, waits], return_when=asyncio.FIRST_COMPLETED)
        if waits in done:  # it found nothing
            other = await server.submit()
            assert (await answer)["id"] == other["id"]
            return False
        waits.cancel()
        assert (await answer)["id"] == job_id
        return True
    finally:
        connection.close()


def close(connection: socket.socket) -> None:
    """Read the answer and close the connection, as a client does that is done."""
    read_answer(connection)
    connection.close()


def read_and_reset(connection: socket.socket) -> None:
    """Read the answer and reset the connection."""
    read_answer(connection)
    reset(connection)


@pytest.mark.parametrize(
    ("end", "confirm", "released"),
    [(reset, True, True), (close, True, False), (read_and_reset, False, False), (close, False, False)],
    ids=["reset", "closed", "reset, without confirm", "closed, without confirm"],
)
async def test_an_equal_request_after_the_end_of_a_connection(
    serve: Serve, end: Callable[[socket.socket], None], confirm: bool, released: bool
) -> None:
    """A job whose connection was reset goes to the repetition of its request; one whose answer was read stays."""
    server = await serve(*OPTIONS)
    body = ASK | {"confirm": confirm}
    connection = connected(server)
    job_id = await ask(server, connection, body)
    await asyncio.to_thread(end, connection)
    await until_connections(server, 0)
    assert await requeued_or_not(server, job_id, body) is released
    assert (await server.job(job_id))["retries"] == 0


async def until_connections(server: Server, count: int) -> None:
    """Wait until the server has no other connections than this many and those of the test's own client."""

    async def holds() -> bool:
        _, text = await server.request("GET", "/metrics")
        (line,) = [line for line in text.decode().splitlines() if line.startswith("composerd_connections ")]
        return float(line.split()[1]) <= count + 1

    await server.until(holds)


async def test_a_second_slot_releases_nothing(serve: Serve) -> None:
    """A machine that asks for a second job with equal bytes, while the first connection is open, gets another job."""
    server = await serve(*OPTIONS)
    with connected(server) as connection:
        job_id = await ask(server, connection, ASK)
        assert not await requeued_or_not(server, job_id, ASK)
        answer = await asyncio.to_thread(read_answer, connection)
        assert (await server.request("GET", answer["location"]))[1]["canceled"] is False


async def test_an_answer_that_was_read_over_tls(serve: Serve, tmp_path: Path) -> None:
    """A TLS client that reads its answer and closes releases nothing, whether or not it says that it closes."""
    files = Files(tmp_path)
    server = await serve(*OPTIONS, *files.server_options)
    context = ssl.create_default_context(cafile=files.ca_file)

    def send(path: str, body: dict[str, Any], *, notify: bool) -> str:
        with context.wrap_socket(connected(server), server_hostname=server.address[0]) as connection:
            connection.sendall(raw_request(body, path))
            data = b""
            while not data.endswith(b"}"):
                data += connection.recv(65536)
            if notify:
                with contextlib.suppress(OSError):
                    connection.unwrap()
        return str(json.loads(data.partition(b"\r\n\r\n")[2])["id"])

    for notify, confirm in itertools.product([True, False], [True, False]):
        # A job that is released would go first again.
        jobs = [send(f"{COMPOSER}/jobs", {"type": "build", "priority": one}, notify=notify) for one in (5, 0)]
        body = ASK | {"confirm": confirm}
        assert [send(f"{WORKER}/jobs?wait=20s", body, notify=notify) for _ in jobs] == jobs


async def test_an_answer_of_which_bytes_are_missing(serve: Serve) -> None:
    """If a client closes before its machine has acknowledged the whole answer, its job goes to the repetition."""
    server = await serve(*OPTIONS)
    body = ASK | {"confirm": False}
    connection = connected(server, window=2048)
    job_id = await ask(server, connection, body, args="x" * 12_000)
    connection.close()  # with unread data this is a reset
    await until_connections(server, 0)
    assert await requeued_or_not(server, job_id, body)


async def test_a_job_that_was_called_about_stays(serve: Serve) -> None:
    """A reset releases nothing if the worker has called about the job."""
    server = await serve(*OPTIONS)
    connection = connected(server)
    job_id = await ask(server, connection, ASK)
    answer = await asyncio.to_thread(read_answer, connection)
    assert (await server.request("GET", answer["location"]))[0] == 200
    reset(connection)
    await until_connections(server, 0)
    assert not await requeued_or_not(server, job_id, ASK)
    assert (await server.request("GET", answer["location"]))[1]["canceled"] is False


async def test_another_request_releases_nothing(serve: Serve) -> None:
    """Only an equal request is a repetition."""
    server = await serve(*OPTIONS)
    for other in ({"worker_id": NOBODY}, {"arch": "aarch64"}):
        body = ASK | {"types": ["build", next(iter(other))]}
        connection = connected(server)
        job_id = await ask(server, connection, body)
        reset(connection)
        await until_connections(server, 0)
        assert not await requeued_or_not(server, job_id, body | other)


async def test_workers_of_one_client_with_equal_requests(serve: Serve) -> None:
    """A worker that resets its connection after it has read its job keeps it if an equal request waited beside it."""
    server = await serve(*OPTIONS)
    other = connected(server)
    other.sendall(raw_request(ASK))
    await until_waiting(server, 1)
    connection = connected(server)
    connection.sendall(raw_request(ASK))
    await until_waiting(server, 2)
    job = await server.submit()  # for the newest
    await asyncio.to_thread(read_and_reset, connection)
    other.close()
    await until_connections(server, 0)
    assert not await requeued_or_not(server, job["id"], ASK)


class Cutting:
    """A proxy that resets the connection to the client instead of passing on the second answer."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self.requests: list[bytes] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with self._listening:
            for number in range(2):
                client, _ = self._listening.accept()
                with client, socket.create_connection(self._server) as upstream:
                    answers = 0
                    while request := client.recv(65536):
                        self.requests.append(request)
                        upstream.sendall(request)
                        data = upstream.recv(65536)
                        answers += 1
                        if number == 0 and answers == 2:
                            reset(upstream)
                            reset(client)
                            break
                        client.sendall(data)


async def test_libcurl_sends_a_request_again(serve: Serve) -> None:
    """Libcurl repeats a POST on its own when a connection that it has used before breaks; it then gets the job."""
    server = await serve(*OPTIONS)
    proxy = Cutting(server.address)
    curl = pycurl.Curl()
    curl.setopt(pycurl.TIMEOUT, 30)

    def perform(method: str, path: str, body: dict[str, Any] | None) -> bytes:
        answer = io.BytesIO()
        curl.setopt(pycurl.URL, f"http://{proxy.address[0]}:{proxy.address[1]}{path}")
        curl.setopt(pycurl.WRITEFUNCTION, answer.write)
        if body is not None:
            curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json"])
            curl.setopt(pycurl.POSTFIELDS, json.dumps(body))
        curl.setopt(pycurl.CUSTOMREQUEST, method)
        curl.perform()
        return answer.getvalue()

    await asyncio.to_thread(perform, "GET", f"{WORKER}/status", None)
    job = await server.submit()
    began = time.monotonic()
    answer = json.loads(await asyncio.to_thread(perform, "POST", f"{WORKER}/jobs", ASK))
    curl.close()
    await asyncio.to_thread(proxy.thread.join)
    assert answer["id"] == job["id"]
    assert time.monotonic() - began < 30  # the handover takes a minute
    assert (await server.job(job["id"]))["retries"] == 0
    first, second = [request for request in proxy.requests if request.startswith(b"POST")]
    assert first == second
