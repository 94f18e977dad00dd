"""schemathesis against a live server: a bounded number of generated requests, checked by the OpenAPI documents."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from .conftest import COMPOSER, WORKER, Serve

CASES = 25
"""Generated cases for each endpoint, in addition to those that schemathesis always makes."""

CONFIG = """
request-timeout = 30.0

[parameters]
"query.wait" = "50ms"
"path.token" = "{token}"

[checks]
# A schema cannot express every rule: a wait of at most ten minutes, refs of the batch.
positive_data_acceptance.enabled = false

[[operations]]
include-name = "PATCH /jobs/{{token}}"

# More is taken than the document says, for older workers: an empty object, and a null beside the other field.
[operations.checks]
negative_data_rejection.enabled = false

[[operations]]
include-name = "POST /workers/{{worker_id}}/status"

# A body that is no object is ignored, for older workers.
[operations.checks]
negative_data_rejection.enabled = false
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("base", [WORKER, COMPOSER])
async def test_what_schemathesis_finds(serve: Serve, tmp_path: Path, base: str) -> None:
    """No request gets a 5xx or an undocumented answer, and nothing that the document forbids is accepted."""
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
