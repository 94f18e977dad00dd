"""Connections that fall silent, as when a router has forgotten them: nothing is closed, and nothing arrives."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from composerd_client import JobContext, Worker, transport
from composerd_client.worker.lease import Lease

from ..proxies.vanishing import machine
from .conftest import LOOPBACK, Serve, Server
from .http_relay import relaying
from .test_shell_worker import working


class Router:
    """Passes bytes on, until it forgets all the connections that it has. It closes none of them before its end."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.url = ""
        self.connections = 0
        """Number of connections so far."""
        self.passed = bytearray()
        """The bytes that clients have sent."""
        self.forget_after: bytes | None = None
        """Bytes of the server after which the connections are forgotten, once."""
        self._server = server
        self._epoch = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Pass nothing on any more on the connections of now."""
        self._epoch += 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass the bytes of one connection on."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        from_server, to_server = await asyncio.open_connection(*self._server)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(from_server, writer, self._epoch, bytearray()))
                group.create_task(self._pass(reader, to_server, self._epoch, self.passed))
        except asyncio.CancelledError:
            pass  # by `close`
        finally:
            to_server.close()
            writer.close()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, epoch: int, passed: bytearray
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if epoch != self._epoch:
                    await asyncio.Event().wait()
                target.write(data)
                passed += data
                if self.forget_after is not None and self.forget_after in data:
                    self.forget_after = None
                    self.forget()
        target.close()

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def router(server: Server, host: str = LOOPBACK) -> AsyncIterator[Router]:
    """Run a router in front of a server."""
    made = Router(server.address)
    listening = await asyncio.start_server(made.serve, host, 0)
    made.url = "http://{}:{}".format(*listening.sockets[0].getsockname()[:2])
    async with listening:
        yield made
        await made.close()


Handler = Callable[[JobContext], Awaitable[object]]


@pytest.fixture
async def brief(serve: Serve) -> Server:
    """Start a server with short leases."""
    return await serve("--heartbeat-timeout", "6s", "--handover-timeout", "4s", "--sweep-interval", "100ms")


async def _run(server: Server, url: str, handler: Handler) -> dict[str, Any]:
    """Run one job with a handler that knows its worker, and return the job as it was when the worker had ended."""
    worker = Worker(url)
    worker.handler("build")(handler)
    job = await server.submit()
    async with asyncio.timeout(30):
        await worker.run(jobs=1)
    return await server.job(job["id"])


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # neither the router nor the job sets an event
            await asyncio.sleep(0.02)


async def test_a_heartbeat_is_sent_on_a_second_connection(brief: Server) -> None:
    """A worker whose connections fall silent renews the lease on a new one before its end."""
    async with router(brief) as between:

        async def build(_: JobContext) -> str:
            await _until(lambda: b"?wait=1500ms" in between.passed)
            between.forget()
            before = between.connections
            await _until(lambda: between.connections > before)
            return "done"

        job = await _run(brief, between.url, build)
    assert (job["state"], job["retries"], job["result"]) == ("finished", 0, "done")


async def test_a_result_is_reported_on_a_second_connection(brief: Server) -> None:
    """A worker whose connections fall silent as it reports the result repeats it on a new one within the lease."""
    async with router(brief) as between:

        async def build(job: JobContext) -> str:
            await job.progress("almost")  # on a connection that is idle then
            between.forget()
            return "done"

        job = await _run(brief, between.url, build)
    assert (job["state"], job["retries"], job["result"]) == ("finished", 0, "done")


async def test_an_upload_is_sent_again_on_a_second_connection(brief: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload of which the other side reads nothing any more ends with the kernel's user timeout, and is repeated."""
    option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    monkeypatch.setattr(transport, "_KEEPALIVE", [(*option, 500)])
    content = bytes(32 * 1024**2)  # more than the buffers of sockets take
    async with router(brief) as between:

        async def build(job: JobContext) -> int:
            await job.progress("almost")  # on a connection that is idle then
            between.forget()
            await job.upload("file", content)
            return len(content)

        job = await _run(brief, between.url, build)
    assert (job["state"], job["retries"], job["result"]) == ("finished", 0, len(content))


async def test_a_job_is_confirmed_on_a_second_connection(brief: Server) -> None:
    """A worker whose connections fall silent as it gets a job confirms it before it goes to another one."""
    async with router(brief) as between:
        between.forget_after = b'"lease"'

        async def build(_: JobContext) -> str:
            return "done"

        job = await _run(brief, between.url, build)
    assert (job["state"], job["retries"], job["result"]) == ("finished", 0, "done")


async def test_a_job_is_released_on_a_second_connection(brief: Server) -> None:
    """A worker that is stopped while its connections are silent releases its job on a new one."""
    async with router(brief) as between:
        worker = Worker(between.url)

        @worker.handler("build")
        async def build(job: JobContext) -> None:
            await job.progress("almost")  # on a connection that is idle then
            between.forget()
            worker.stop()
            worker.stop()
            await asyncio.Event().wait()

        job = await brief.submit()
        async with asyncio.timeout(30):
            await worker.run()
        job = await brief.job(job["id"])
    assert (job["state"], job["retries"]) == ("ready", 0)


async def test_a_worker_whose_packets_are_dropped_keeps_its_job(brief: Server, tmp_path: Path) -> None:
    """A worker whose packets go nowhere any more, as after a NAT restarts, finishes its job on new connections."""
    end = tmp_path / "end"
    async with machine() as other, router(brief, other.host) as between:
        wait = f"while [ ! -e {end} ]; do sleep 0.05; done"
        arguments = ("worker", "--type", "build", "--server", between.url, "--once", "--", "sh", "-c", wait)
        worker = await other.run(str(Path(sys.executable).parent / "composerd"), *arguments)
        submitted = await brief.submit()
        await _until(lambda: b"?wait=1500ms" in between.passed)
        await other.forget()
        before = between.connections
        await _until(lambda: between.connections > before)
        end.touch()
        assert await worker.wait() == 0
        job = await brief.job(submitted["id"])
    assert (job["state"], job["retries"]) == ("finished", 0)


@pytest.mark.usefixtures("curl")
async def test_the_worker_in_shell_connects_again_within_the_lease(serve: Serve, tmp_path: Path) -> None:
    """The documented worker in shell takes a silent connection for dead in time to renew the lease on a new one."""
    server = await serve("--heartbeat-timeout", "9s", "--sweep-interval", "100ms")
    end = tmp_path / "end"
    async with router(server) as between:
        command = ("sh", "-c", f"while [ ! -e {end} ]; do sleep 0.05; done")
        async with working(between.url, tmp_path, *command):
            submitted = await server.submit()
            await _until(lambda: b"?wait=2s" in between.passed)
            between.forget()
            before = between.connections
            await _until(lambda: between.connections > before)
            end.touch()
            job = await server.job(submitted["id"], wait="20s")
    assert (job["state"], job["retries"]) == ("finished", 0)


async def test_an_outage_that_is_shorter_than_the_lease(serve: Serve) -> None:
    """The pauses between heartbeats that fail follow from the lease, so that a shorter outage costs no job."""
    server = await serve("--heartbeat-timeout", "4s", storage="memory:")
    job = await server.submit()
    refused = 0
    async with relaying(server.url) as relay:

        async def refuse(request: web.Request) -> web.StreamResponse | None:
            nonlocal refused
            if request.method != "GET" or not request.query or refused == 8:
                return None
            refused += 1
            return relay.page(503)

        async def until_refused(_job: JobContext) -> None:
            await server.until(all_refused)

        async def all_refused() -> bool:
            return refused == 8

        relay.hook = refuse
        worker = Worker(relay.url, arch="x86_64")
        worker.handler("build")(until_refused)
        await worker.run(jobs=1)
    ended = await server.job(job["id"])
    assert (ended["state"], ended["retries"]) == ("finished", 0)


@pytest.mark.parametrize(
    ("told", "wait", "second", "last"),
    [("120s", 20, 30, 100), ("600s", 20, 30, 340), ("20s", 5, 6.67, 18.33), ("3s", 0.75, 1, 2.75), ("", 15, 20, 55)],
)
def test_times_follow_from_the_lease(told: str, wait: float, second: float, last: float) -> None:
    """A heartbeat is sent on a second connection in the first third of the lease, and on further ones until its end."""
    lease = Lease(told)
    opened = list(accumulate(lease.heartbeat_again_after))
    assert lease.wait == wait
    assert opened[0] == pytest.approx(second, abs=0.01)
    assert opened[-1] == pytest.approx(last, abs=0.01)


@pytest.mark.parametrize("told", ["0s", "-1s", "soon", "1e999s"])
def test_a_lease_that_makes_no_sense_is_not_believed(told: str) -> None:
    """A worker waits and repeats as usual if the lease is none, or one of no time."""
    lease = Lease(told)
    assert lease.seconds in (1.0, 60.0)
    assert lease.wait > 0
