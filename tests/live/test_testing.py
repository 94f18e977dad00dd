"""`composerd.testing`, as others use it: the page's examples, and what a server and a worker do there."""

import re
from pathlib import Path

import pytest

from composerd.client import ComposerClient, JobContext
from composerd.testing import LiveServer

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "test-against-composerd.md"

SUBMITTER = """
import asyncio
from composerd.client import ComposerClient

def my_submitter(url, args):
    async def submit():
        async with ComposerClient(url) as composer:
            job = await composer.submit("build", args=args)
            job = await composer.wait(job.id, timeout=20)
            assert job.result == {"image": "done"}
    asyncio.run(submit())
"""


def test_the_examples_of_the_page(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """The page's test passes as it stands, and its other example runs."""
    first, second = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    pytester.makepyfile(SUBMITTER + first)
    # A session of its own: asyncio modes and warnings of this one are not the reader's.
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    exec(second.replace("/tmp/jobs", str(tmp_path)))  # the example itself


async def test_a_scripted_worker(tmp_path: Path) -> None:
    """Functions, coroutines and failures are played; files and progress come through; jobs outlive a kill on fs."""

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
    """What `composerd serve` said is in the error."""
    with pytest.raises(RuntimeError, match="no storage driver for 'nothing'"), LiveServer("nothing:"):
        pass
