"""The command `composerd-worker`, which needs only the client, beside `composerd worker`: help, errors, exit codes."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Server, clean_environment
from .test_cli import Ended, composerd

PROGRAM = Path(sys.executable).with_name("composerd-worker")


async def composerd_worker(*arguments: str, **env: str) -> Ended:
    """Run `composerd-worker` until it exits."""
    done = await asyncio.to_thread(
        subprocess.run,
        [str(PROGRAM), *arguments],
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


async def test_help() -> None:
    """Both commands have the same help, but for their names and where lines end."""
    long, short = await composerd("worker", "--help"), await composerd_worker("--help")
    assert (long.code, short.code) == (0, 0)
    assert short.out.replace("composerd-worker", "composerd worker").split() == long.out.split()
    assert (await composerd_worker("--type", "a", "-h")).out == short.out


@pytest.mark.parametrize(
    "line",
    [
        "",
        "true",
        "--type",
        "--type a",
        "--type a --once=1 true",
        "--type a --job 1 true",
        "--type a -x true",
        "--type a --concurrency 0 true",
        "--type a --concurrency many true",
        "--type a --server ftp://x true",
        "--type a --server https://127.0.0.1:1 --ca-file /nowhere.pem true",
        "--type a --server https://127.0.0.1:1 --key-file /nowhere.pem true",
    ],
)
async def test_errors(line: str) -> None:
    """Both commands refuse the same command lines with the same sentence."""
    long, short = await composerd("worker", *line.split()), await composerd_worker(*line.split())
    assert (short.code, short.out, short.err.count("\n")) == (2, "", 1)
    assert short.err.startswith("composerd-worker: ")
    assert short.err.removeprefix("composerd-worker") == long.err.removeprefix("composerd")
    assert long.code == short.code


async def test_options(server: Server) -> None:
    """Options may stand among the words of COMMAND up to `--`, and the environment names the server."""
    job = await server.submit("b")
    words = ["--type", "a", "echo", "--type=b", "--arch", "s390x", "-n", "--once", "--", "--arch", "--once"]
    ended = await composerd_worker(*words, COMPOSERD_SERVER=server.url)
    assert (ended.code, ended.out) == (0, "")
    assert (await server.job(job["id"]))["result"]["stdout"] == "--arch --once"


def test_imports() -> None:
    """The command imports nothing of the server, and none of the libraries that only composerd depends on."""
    script = (
        "import sys; import composerd_client.worker.command_line; "
        "print(*{name.partition('.')[0] for name in sys.modules} & {'aiohttp', 'click', 'composerd', 'rich'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
