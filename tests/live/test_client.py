"""The Python client with a real server: the examples of its page, and errors."""

import asyncio
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from composerd_client import (
    ClientError,
    ComposerClient,
    DamagedDownload,
    GraphJob,
    JobContext,
    JobState,
    RequestFailed,
    ServerUnreachable,
    Worker,
)
from composerd_client.repeating import Backoff

from .conftest import NOBODY, Serve, Server

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "python-client.md"


async def test_the_examples_of_the_page(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run one after the other, the examples submit a job and a graph, run them, and show the results."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert "http://127.0.0.1:8700" in code
    names: dict[str, Any] = {}
    exec(compile(code.replace("http://127.0.0.1:8700", server.url), str(PAGE), "exec"), names)
    job_id = await names["submit"]()
    assert datetime.fromisoformat(await names["submit_for_tonight"]()) > datetime.now(UTC)
    graph = await names["submit_graph"]()
    await names["work"]()
    await names["follow"](graph[1])
    await names["watch"](graph[1])
    await names["look_around"]()
    async with ComposerClient(server.url) as composer:
        summed = await composer.submit("checksum", args=[1, 2])
        following = asyncio.create_task(asyncio.to_thread(names["submit_and_wait"]))
        await names["worker"].run(jobs=2)
        assert (await composer.wait(summed.id, 20)).result == {"sum": 3}
        assert await following == {"built": True}
    assert (tmp_path / "images" / "log.txt").read_text().startswith("built {'what': 'an image'}")
    shown = capsys.readouterr().out
    assert "finished {'built': True}" in shown
    assert "log.txt " in shown
    assert f"{job_id} build" in shown
    assert "32 Job not found" in shown


async def test_functions_and_concurrency(server: Server) -> None:
    """Plain functions run in `concurrency` threads, and an exception becomes the reason of the failure."""
    worker = Worker(server.url, arch="x86_64", concurrency=3)
    together = threading.Barrier(3)

    @worker.handler("build")
    def build(job: JobContext) -> Any:
        together.wait(60)
        if job.args == 1:
            raise KeyError("no such thing")
        return job.args

    jobs = [await server.submit(args=n) for n in range(3)]
    await worker.run(jobs=3)
    ended = [await server.job(job["id"]) for job in jobs]
    assert [job["state"] for job in ended] == ["finished", "failed", "finished"]
    assert ended[1]["result"]["job_error"]["reason"] == "KeyError: 'no such thing'"
    assert ended[2]["result"] == 2


async def test_a_cancel_cancels_the_handler(server: Server) -> None:
    """A cancel promptly cancels the handler's task, and the worker runs the next job."""
    worker = Worker(server.url, arch="x86_64")
    seen: list[str] = []

    @worker.handler("build")
    async def build(job: JobContext) -> Any:
        if job.args == "next":
            return "done"
        try:
            seen.append("began")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("canceled")
            raise

    job = await server.submit()
    running = asyncio.create_task(worker.run(jobs=2))

    async def began() -> bool:
        return seen == ["began"]

    await server.until(began)
    at = time.monotonic()
    async with ComposerClient(server.url) as composer:
        assert (await composer.cancel(job["id"])).state == "canceled"
        last = await composer.submit("build", args="next")
        assert (await composer.wait(last.id, 10)).result == "done"
    assert time.monotonic() - at < 20
    assert seen == ["began", "canceled"]
    await running


@pytest.mark.parametrize("how", ["cancel", "stop twice", "stop after"])
async def test_an_aborted_worker_releases_its_job(server: Server, how: str) -> None:
    """An aborted worker releases its job at once, and the release does not count as a retry."""
    worker = Worker(server.url, arch="x86_64")
    started = asyncio.Event()

    @worker.handler("build")
    async def build(_job: JobContext) -> Any:
        started.set()
        await asyncio.sleep(60)

    job = await server.submit()
    running = asyncio.create_task(worker.run())
    await started.wait()
    if how == "cancel":
        running.cancel()
    elif how == "stop after":
        worker.stop(after=timedelta(milliseconds=100))
    else:
        worker.stop()
        worker.stop()
    await asyncio.wait([running], timeout=10)
    assert running.done()
    assert running.cancelled() is (how == "cancel")
    released = await server.job(job["id"])
    assert (released["state"], released["retries"]) == ("ready", 0)


async def test_patience_outlives_a_restart(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request succeeds after a restart of the server; without patience, it fails at once."""
    server = await serve()
    job = await server.submit()
    server.kill()
    await server.exited()
    async with ComposerClient(server.url, patience=0) as composer:
        with pytest.raises(ServerUnreachable, match="cannot be reached"):
            await composer.get(job["id"])
    async with ComposerClient(server.url) as composer:
        tried = asyncio.Event()
        failed = Backoff.failed

        async def observed(backoff: Backoff, error: ClientError, *more: Any) -> None:
            tried.set()
            await failed(backoff, error, *more)

        monkeypatch.setattr(Backoff, "failed", observed)
        request = asyncio.create_task(composer.get(job["id"]))
        await tried.wait()
        await server.start()
        assert (await request).id == job["id"]


async def test_progress(server: Server) -> None:
    """Each value that the worker reports is yielded once, and the iteration ends with the job."""
    worker = Worker(server.url, arch="x86_64")
    seen: asyncio.Queue[Any] = asyncio.Queue()

    @worker.handler("build")
    async def build(job: JobContext) -> Any:
        for done in (0, {"done": 50}, "nearly"):
            await job.progress(done)
            await seen.get()
            await job.progress(done)
        return "built"

    job = await server.submit()
    running = asyncio.create_task(worker.run(jobs=1))
    got = []
    async with ComposerClient(server.url) as composer:
        async for done in composer.progress(job["id"], every=timedelta(milliseconds=50)):
            got.append(done)
            await seen.put(done)
        assert got == [0, {"done": 50}, "nearly"]
        assert (await composer.get(job["id"])).result == "built"
    await running


async def job_with_file(server: Server) -> dict[str, Any]:
    """Return a job that has finished with an artifact `file`."""
    worker = Worker(server.url, arch="x86_64")

    @worker.handler("build")
    async def build(job: JobContext) -> None:
        await job.upload("file", b"hello")

    job = await server.submit()
    await worker.run(jobs=1)
    return job


async def test_a_download_creates_its_directory(server: Server, tmp_path: Path) -> None:
    """A directory that does not exist is created, with those above it; a file in its place is an error."""
    job = await job_with_file(server)
    async with ComposerClient(server.url) as composer:
        (artifact,) = await composer.artifacts(job["id"])
        path = await composer.download(artifact, str(tmp_path / "new" / "er"))
        assert (path, path.read_bytes()) == (tmp_path / "new" / "er" / "file", b"hello")
        for directory in (path, path / "below"):
            with pytest.raises(NotADirectoryError):
                await composer.download(artifact, directory)


async def test_a_misspelled_field_is_not_sent(server: Server) -> None:
    """A field that does not exist and a time without a zone are errors, and no job is submitted."""
    mistakes: list[dict[str, Any]] = [{"prioriti": 1}, {"ref": "a"}]
    async with ComposerClient(server.url) as composer:
        for mistake in mistakes:
            with pytest.raises(TypeError, match=f"a job has no field '{next(iter(mistake))}'"):
                await composer.submit("build", **mistake)
        with pytest.raises(ValueError, match="time zone"):
            await composer.submit_graph([{"type": "a"}, {"type": "b", "not_before": datetime(2030, 1, 1)}])  # noqa: DTZ001
        assert [job async for job in composer.list()] == []


async def test_what_is_submitted_comes_back(server: Server) -> None:
    """Times come back as they were given, and why says until when the job is delayed."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with ComposerClient(server.url) as composer:
        job = await composer.submit("build", not_before=tomorrow, retention=timedelta(days=2), timeout="1h")
        assert (job.not_before, job.state) == (tomorrow, JobState.WAITING)
        assert abs(datetime.now(UTC) - job.queued_at) < timedelta(minutes=1)
        assert (await composer.why(job.id)).delayed_until == tomorrow
        assert [one.id async for one in composer.list(state=JobState.WAITING, type="build")] == [job.id]
        ready = await composer.submit("build")
        for states, expected in (
            ([JobState.WAITING, "ready"], [ready.id, job.id]),
            (("ready", "running"), [ready.id]),
            ({"failed"}, []),
            ([], []),
        ):
            assert [one.id async for one in composer.list(state=states)] == expected
        ended = await composer.cancel(job.id)
        assert ended.finished_at is not None
        assert ended.expires_at == ended.finished_at + timedelta(days=2)


async def test_errors_have_their_reason(server: Server) -> None:
    """An error has the number, the reason and the details of the server's error, and the request id."""
    async with ComposerClient(server.url) as composer:
        with pytest.raises(RequestFailed, match="Unknown dependency") as failed:
            await composer.submit("build", dependencies=[NOBODY])
        assert (failed.value.status, failed.value.number, failed.value.code) == (400, 36, "COMPOSERD-36")
        assert failed.value.details == {"id": NOBODY}
        assert len(failed.value.operation_id) == 36


async def test_pages_of_edges(server: Server) -> None:
    """The client yields all dependents of a job, and its dependencies, however many pages they are on."""
    hub = await server.submit()
    async with ComposerClient(server.url) as composer:
        fields: GraphJob = {"type": "build", "dependencies": [hub["id"]]}
        ids = [job.id for count in (1000, 5) for job in await composer.submit_graph([fields] * count)]
        assert [one async for one in composer.dependents(hub["id"])] == ids
        assert [one async for one in composer.dependencies(ids[3])] == [hub["id"]]
        assert (await composer.get(hub["id"])).dependents == ids[:1000]


async def test_a_damaged_download(server: Server, tmp_path: Path) -> None:
    """A download whose digest does not match raises an error and leaves no file behind."""
    job = await job_with_file(server)
    root = Path(server.storage.removeprefix("fs:")) / "artifacts"
    (stored,) = (path for path in sorted(root.rglob("*")) if path.is_file())
    stored.write_bytes(b"hallo")
    async with ComposerClient(server.url) as composer:
        (artifact,) = await composer.artifacts(job["id"])
        with pytest.raises(DamagedDownload, match="file"):
            await composer.download(artifact, tmp_path)
    assert not (tmp_path / "file").exists()


async def test_a_refused_worker(server: Server) -> None:
    """A worker ends with the server's reason if it requests a type that the server refuses."""
    worker = Worker(server.url, concurrency=3)
    worker.handler("manifest-id-only")(lambda _job: None)
    with pytest.raises(RequestFailed, match="cannot be dequeued"):
        await worker.run()
