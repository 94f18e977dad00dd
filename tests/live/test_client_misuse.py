"""Mistakes in programs that use the Python client, and handlers that fail in unusual ways: the errors say so."""

import asyncio
import inspect
import io
import re
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from composerd_client import ComposerClient, JobContext, ServerUnreachable, SyncComposerClient, Worker

from .conftest import NOBODY, Server


class _WithoutText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


async def _exits(_job: JobContext) -> None:
    sys.exit("usage: build")


def _exits_in_a_thread(_job: JobContext) -> None:
    sys.exit(3)


def _has_no_next(_job: JobContext) -> None:
    next(iter([]))


async def _has_no_text(_job: JobContext) -> None:
    raise _WithoutText


async def _asserts(_job: JobContext) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (_exits, "SystemExit: usage: build"),
        (_exits_in_a_thread, "SystemExit: 3"),
        (_has_no_next, "RuntimeError: the handler raised StopIteration"),
        (_has_no_text, "_WithoutText: it has no text, because its __str__ fails"),
        (_asserts, "AssertionError"),
    ],
)
async def test_a_handler_that_fails_in_an_unusual_way(
    server: Server, handler: Callable[[JobContext], Any], reason: str
) -> None:
    """Its job fails with the reason, and the worker runs the next one."""
    worker = Worker(server.url, arch="x86_64")
    worker.handler("build")(handler)
    worker.handler("next")(lambda job: job.args)
    jobs = [await server.submit(), await server.submit("next", args=1)]
    async with asyncio.timeout(20):
        await worker.run(jobs=2)
    ended = [await server.job(job["id"]) for job in jobs]
    assert ended[0]["result"]["job_error"]["reason"] == reason
    assert (ended[0]["retries"], ended[1]["result"]) == (0, 1)


async def test_a_worker_without_work() -> None:
    """A handler without its type, something else than a function, no handler and no concurrency are errors at once."""
    worker = Worker()
    with pytest.raises(RuntimeError, match="the worker has no handler"):
        await worker.run()
    with pytest.raises(TypeError, match=r"write @worker.handler\('TYPE'\)"):
        worker.handler(_exits)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the handler for 'build' is not a function, but 'done'"):
        worker.handler("build")("done")  # type: ignore[type-var]
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        Worker(concurrency=0)


async def _broken() -> AsyncIterator[bytes]:
    yield b"some"
    raise ValueError("the source is broken")


async def _of_text() -> AsyncIterator[Any]:
    yield "some"


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("a", "text", "TypeError: an upload is bytes, a Path, a file opened with 'rb' or an asynchronous iterable of "),
        ("a", io.BytesIO(b"x"), "TypeError: an upload is .*, and not BytesIO"),
        ("a", [b"x"], "TypeError: an upload is .*, and not list"),
        ("a", _broken(), "ValueError: the source is broken"),
        ("a", _of_text(), "TypeError: Strings must be encoded before hashing"),
        ("..", b"x", "ValueError: the name of an artifact must not have a slash, .*, and this one is '..'"),
        ("a/b", b"x", "ValueError: the name of an artifact must not have a slash, .*, and this one is 'a/b'"),
        (Path("a"), b"x", "TypeError: the name of an artifact is a str, and not PosixPath"),
    ],
)
async def test_what_cannot_be_uploaded(server: Server, name: Any, source: Any, reason: str) -> None:
    """The error is about the name or the source, and not about the server."""
    worker = Worker(server.url, arch="x86_64")

    @worker.handler("build")
    async def build(job: JobContext) -> None:
        await job.upload(name, source)

    job = await server.submit()
    async with asyncio.timeout(20):
        await worker.run(jobs=1)
    failed = (await server.job(job["id"]))["result"]["job_error"]["reason"]
    assert re.match(reason, failed)


async def test_a_client_that_is_not_open(server: Server) -> None:
    """Before its `async with` block, and after it, a call raises an error that names the block; it is entered once."""
    composer = ComposerClient(server.url)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="use it within `async with`"):
            await composer.get(NOBODY)
        async with composer:
            with pytest.raises(RuntimeError, match="open already"):
                await composer.__aenter__()
            await composer.workers()


async def test_a_client_of_another_event_loop(server: Server) -> None:
    """A client, also that of a handler, is used in its own event loop only."""
    async with ComposerClient(server.url) as composer:
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(composer.get(NOBODY)))
        worker = Worker(server.url, arch="x86_64")

        @worker.handler("build")
        def build(job: JobContext) -> None:
            asyncio.run(job.upload("a", b"x"))

        job = await composer.submit("build")
        await worker.run(jobs=1)
        assert "belongs to another event loop" in (await composer.get(job.id)).result["job_error"]["reason"]


@pytest.mark.parametrize(
    ("mistake", "error", "message"),
    [
        (lambda composer: composer.get(composer.workers), TypeError, "the id of a job is a str, and not method"),
        (lambda composer: composer.delete(".."), ValueError, "'..' is not the id of a job"),
        (lambda composer: composer.why(""), ValueError, "'' is not the id of a job"),
        (lambda composer: composer.wait(NOBODY, timeout="1s"), TypeError, "timeout must be a number of seconds or a"),
        (lambda composer: composer.get(NOBODY, wait=float("nan")), ValueError, "wait must be a number of seconds"),
        (lambda composer: composer.submit_graph({"type": "build"}), TypeError, "must be a dictionary, and not str"),
    ],
)
async def test_arguments_of_a_wrong_kind(
    server: Server, mistake: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    """The error says which argument is wrong, and what it has to be."""
    async with ComposerClient(server.url) as composer:
        with pytest.raises(error, match=message):
            await mistake(composer)


async def test_a_timeout_says_which_job_has_not_ended(server: Server) -> None:
    """The `TimeoutError` of `wait` names the job and the time."""
    async with ComposerClient(server.url) as composer:
        job = await composer.submit("build")
        with pytest.raises(TimeoutError, match=f"job {job.id} has not ended within 0.05 s"):
            await composer.wait(job.id, timeout=timedelta(milliseconds=50))


async def test_another_protocol(server: Server) -> None:
    """The error says so if the server has no TLS, or does not speak HTTP at all."""
    async with ComposerClient(server.url.replace("http:", "https:"), patience=0) as composer:
        with pytest.raises(ServerUnreachable, match=r"no connection with TLS \(.*\); write http:// if it has no TLS"):
            await composer.workers()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        async with ComposerClient(f"http://127.0.0.1:{port}", patience=0) as composer:
            with pytest.raises(ServerUnreachable, match=r"its answer is not HTTP: .*SSH-2.0") as raised:
                await composer.workers()
    assert "\n" not in str(raised.value)


def test_help_for_the_client_without_await() -> None:
    """Its class shows the arguments of `ComposerClient`."""
    assert inspect.signature(SyncComposerClient).parameters == inspect.signature(ComposerClient).parameters
