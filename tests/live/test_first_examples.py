"""The Python examples that a newcomer meets first, in the READMEs and in the tutorial, run as they stand there."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from composerd_client import Worker

from .conftest import Server

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("README.md", "{'greeting': 'Hello, world!'}\n"),
        ("docs/tutorial.md", "finished {'greeted': 'world'}\n"),
    ],
)
async def test_an_example(server: Server, page: str, printed: str) -> None:
    """The example submits a job, runs it and prints its result."""
    assert await _output(page, server) == printed


async def test_the_example_of_the_client(server: Server) -> None:
    """The example submits a job without `await`, and prints what a worker makes of it."""
    worker = Worker(server.url)
    worker.handler("checksum")(lambda job: [job.args])
    _, printed = await asyncio.gather(worker.run(jobs=1), _output("client/README.md", server))
    assert printed == "[{'hello': 'world'}]\n"


async def _output(page: str, server: Server) -> str:
    """Run the example of a page, and return what it prints."""
    (code,) = re.findall(r"```python\n(.*?)```", (TOP / page).read_text(encoding="utf-8"), re.DOTALL)
    assert "http://127.0.0.1:8700" in code
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code.replace("http://127.0.0.1:8700", server.url)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()
