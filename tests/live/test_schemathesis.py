"""schemathesis against the OpenAPI documents of a live server: what they say is what it does, whatever it is sent. Bounded."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from .conftest import COMPOSER, WORKER, Serve

CASES = 25
"""Generated cases for each operation, besides those that schemathesis always makes."""

CONFIG = """
request-timeout = 30.0

[parameters]
"query.wait" = "50ms"
"path.token" = "{token}"
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("base", [WORKER, COMPOSER])
async def test_what_schemathesis_finds(serve: Serve, tmp_path: Path, base: str) -> None:
    """Nothing: no 5xx, no status, header or body that the document does not name, nothing accepted that it forbids."""
    server = await serve("--request-job-timeout", "50ms")
    await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    token = attempt["location"].rpartition("/")[2]
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.format(token=token))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(config),
        "run",
        f"{server.url}{base}/openapi",
        "--checks",
        "all",
        "--exclude-checks",
        # There are rules that a schema cannot say: a wait of at most ten minutes, refs of the same batch, no result beside a partial.
        "positive_data_acceptance",
        "--max-examples",
        str(CASES),
        "--seed",
        "1",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out = (await process.communicate())[0].decode()
    assert process.returncode == 0, out
    tried = re.search(r"(\d+) generated, (\d+) passed", out)
    assert tried is not None, out
    assert int(tried[1]) == int(tried[2]) > 200
    assert b"Traceback" not in server.log
