"""A slow upload that is refused before it has been read.

This takes half a minute for each worker, and is therefore not among the tests that are run by default. Run it with
`pytest -n 20 -rP tests/clients/slow_refusals.py`: the workers mostly sleep. Each test prints when the worker saw it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ServeRelayed
from .test_workers import CLIENTS, Client, running

SIZE = 50_000_000
RATE = 1_600_000


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.file)
async def test_a_slow_upload_that_is_refused(
    relayed: ServeRelayed, client: Client, installed: Callable[[str, str, str], str], tmp_path: Path
) -> None:
    """A worker sees why an upload was refused that takes half a minute."""
    if client.package:
        installed(client.package, client.file, client.program or client.command[0])
    server, relay = await relayed("--max-artifact-size", "1MiB")
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, SIZE)
    relay.rate = RATE
    job = await server.submit(args={"text": ""})
    async with running(client, relay.url, "build", str(file)):
        ended = await server.job(job["id"], wait="60s")
    assert ended["state"] == "failed", "the worker did not see the refusal"
    assert ended["result"]["job_error"]["reason"] == "upload: error 25, Artifact too large"
    # A worker that did not see the refusal at first has sent the upload again.
    calls = [request.call for request in relay.requests]
    assert calls.count("PUT output") == 1
    began = calls.index("PUT output")
    print(f"{client.file} saw the refusal after {relay.requests[began + 1].at - relay.requests[began].at:.0f} s")  # noqa: T201
