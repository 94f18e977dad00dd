"""Our worker and client behind nginx, which refuses requests above 1 MiB by default."""

import asyncio

import pytest

from composerd_client import ComposerClient, JobContext, ProxyAnswered, Worker

from ..live.conftest import Serve
from .conftest import Run
from .kinds import UNTOUCHED

LARGE = 3_000_000
"""More bytes than the limit."""


async def test_what_is_too_large_for_nginx(serve: Serve, run: Run) -> None:
    """A result, a file and a submission above the limit fail once, with their size and the setting of nginx."""
    server = await serve(storage="memory:")
    running = await run(UNTOUCHED["nginx"], server)
    worker = Worker(running.url, arch="x86_64")
    worker.handler("result")(lambda _job: "x" * LARGE)

    @worker.handler("file")
    async def upload(job: JobContext) -> None:
        await job.progress("x" * LARGE)
        await job.upload("disk.img", b"x" * LARGE)

    working = asyncio.create_task(worker.run())
    try:
        async with ComposerClient(running.url) as composer:
            for kind, said in (
                ("result", f"The result of {LARGE + 2} bytes"),
                ("file", f"'disk.img' of {LARGE} bytes"),
            ):
                job = await composer.submit(kind)
                ended = await composer.wait(job.id, timeout=60)
                reason = ended.result["job_error"]["reason"]
                assert (ended.state, ended.retries) == ("failed", 0)
                assert said in reason
                assert "413 from a proxy (nginx), not from composerd: raise its client_max_body_size" in reason
            with pytest.raises(ProxyAnswered, match=r"of 3000\d\d\d bytes was refused: 413 from a proxy \(nginx\)"):
                await composer.submit("build", args="x" * LARGE)
    finally:
        working.cancel()
        await asyncio.wait([working])
