"""`composerd.testing`: the examples of its page, the live server and the scripted worker."""

import re
from pathlib import Path

import pytest

from composerd.testing import LiveServer
from composerd_client import ComposerClient, JobContext, RequestFailed

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "test-against-composerd.md"

OWN = """
from composerd.testing import ScriptedWorker
from composerd_client import SyncComposerClient

def my_submitter(url, args):
    with SyncComposerClient(url) as composer:
        job = composer.submit("build", args=args)
        assert composer.wait(job.id, timeout=20).result == {"image": "done"}

def my_worker(url):
    return ScriptedWorker(url, {"build": {"image": "done"}})
"""


def test_the_examples_of_the_page(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """The tests on the page pass unchanged, and the other example runs."""
    first, second, third, fourth = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    pytester.makepyfile(OWN + first + second + fourth)
    # In a separate process, because readers do not have the asyncio mode and warning filters of this one.
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)
    exec(third.replace("/tmp/jobs", str(tmp_path)))


async def test_a_scripted_worker(tmp_path: Path) -> None:
    """A scripted worker runs functions and coroutines, and jobs on fs survive a killed server."""

    async def upload(job: JobContext) -> object:
        await job.progress(1)
        await job.upload("a", b"data")
        return job.args

    def fail(job: JobContext) -> object:
        raise ValueError(job.args)

    with LiveServer(f"fs:{tmp_path}") as server:
        async with ComposerClient(server.url) as composer:
            uploaded = await composer.submit("upload", args=[1])
            failed = await composer.submit("fail", args="bad luck")
            server.kill()
            server.start()
            with server.worker({"upload": upload, "fail": fail}) as worker:
                uploaded = await composer.wait(uploaded.id, timeout=20)
                failed = await composer.wait(failed.id, timeout=20)
            assert (uploaded.result, failed.state) == ([1], "failed")
            assert failed.result["job_error"]["reason"] == "ValueError: bad luck"
            assert [one.name for one in await composer.artifacts(uploaded.id)] == ["a"]
            assert len(worker.jobs) == 2


def test_a_server_that_cannot_start() -> None:
    """The error contains the message of `composerd serve`."""
    with pytest.raises(RuntimeError, match="no storage driver for 'nothing'"), LiveServer("nothing:"):
        pass


def test_artifacts_of_jobs_in_memory(composerd_server: LiveServer, tmp_path: Path) -> None:
    """A worker can upload to a server with its jobs in memory."""

    def upload(job: JobContext) -> None:
        job.sync.upload("a", b"data")

    with composerd_server.composer() as composer, composerd_server.worker({"build": upload}):
        job = composer.wait(composer.submit("build").id, timeout=20)
        (artifact,) = composer.artifacts(job.id)
        assert composer.download(artifact, tmp_path).read_bytes() == b"data"
    with LiveServer(options=["--artifacts=none"]) as server, server.worker({"build": upload}) as worker:
        with server.composer() as composer:
            refused = composer.wait(composer.submit("build").id, timeout=20)
        assert refused.result["job_error"]["reason"] == "RequestFailed: Artifacts are not accepted"
    assert len(worker.jobs) == 1


def test_a_running_server() -> None:
    """A running server cannot be started again; after a kill it can, with the same URL."""
    with LiveServer() as server:
        with pytest.raises(RuntimeError, match="already running"):
            server.start()
        before = server.url
        server.kill()
        server.start()
        assert server.url == before


def test_a_worker_with_errors() -> None:
    """A wrong option raises at once; a request that the server refuses raises at the end of the block."""
    with LiveServer() as server:
        with pytest.raises(TypeError, match="arhc"):
            server.worker({"build": None}, arhc="x86_64")
        worker = server.worker({"manifest-id-only": None})
        with pytest.raises(RequestFailed, match="cannot be dequeued"), worker:
            worker._thread.join(30)
