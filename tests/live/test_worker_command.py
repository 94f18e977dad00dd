"""The command `composerd-worker`, which needs only the client, beside `composerd worker`: help, errors, exit codes."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Serve, Server, clean_environment, until_waiting
from .test_cli import Ended, composerd, working
from .test_job_commands import delivered

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
    """Both commands have the same help, but for their names, the case of a heading and where lines end."""
    long, short = await composerd("worker", "--help"), await composerd_worker("--help")
    assert (long.code, short.code) == (0, 0)
    renamed = short.out.replace("composerd-worker", "composerd worker").replace("usage:", "Usage:")
    assert renamed.split() == long.out.split()
    assert (await composerd_worker("--type", "a", "-h")).out == short.out


@pytest.mark.parametrize(
    "line",
    [
        "--type a",
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


@pytest.mark.parametrize(
    ("line", "named"),
    [("", "--type"), ("true", "--type"), ("--type", "--type"), ("--type a --once=1 true", "--once")],
)
async def test_missing_and_superfluous_values(line: str, named: str) -> None:
    """A missing option, a missing value and a value too many are one sentence that names the option."""
    ended = await composerd_worker(*line.split())
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith("composerd-worker: ")
    assert named in ended.err


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


@pytest.mark.parametrize(
    ("script", "code", "state"),
    [
        ("true", 0, "finished"),
        ('echo null > "$COMPOSERD_JOB_RESULT"', 0, "finished"),
        ("exit 3", 1, "failed"),
        ('echo \' {"job_error": {"id": 1, "reason": "own"}}\' > "$COMPOSERD_JOB_RESULT"', 1, "failed"),
        ('head -c 2000000 /dev/zero > "$COMPOSERD_JOB_ARTIFACTS/large"', 1, "failed"),
        ("printf '\"%03000000d\"' 0 > $COMPOSERD_JOB_RESULT", 1, "failed"),
        ('curl -s -X POST "{server}/api/composer/v1/jobs/$COMPOSERD_JOB_ID/cancel"; sleep 60', 1, "canceled"),
    ],
)
async def test_once(server: Server, script: str, code: int, state: str) -> None:
    """With `--once` the exit code is 1 if the job did not finish, whoever failed it."""
    job = await server.submit()
    script = script.replace("{server}", server.url)
    ended = await composerd_worker("--type", "build", "--once", "--server", server.url, "--", "sh", "-c", script)
    assert (ended.code, (await server.job(job["id"]))["state"]) == (code, state), ended.err


async def test_once_with_a_lost_job(serve: Serve, tmp_path: Path) -> None:
    """With `--once` the exit code is 1 if the lease expires and another worker gets the job."""
    server = await serve("--heartbeat-timeout", "1s", "--sweep-interval", "50ms")
    job = await server.submit()
    script = f"touch {tmp_path}/up; sleep 60"
    async with working(server, "--once", "--", "sh", "-c", script) as process:

        async def up() -> bool:
            return (tmp_path / "up").exists()

        await server.until(up)
        process.send_signal(signal.SIGSTOP)

        async def requeued() -> bool:
            return bool((await server.job(job["id"]))["state"] == "ready")

        await server.until(requeued)
        process.send_signal(signal.SIGCONT)
        assert await process.wait() == 1


async def test_once_and_a_stop(server: Server) -> None:
    """A worker that is stopped before its job came, or that releases the job because of a stop, has not failed."""
    async with working(server, "--once", "--", "sleep", "60") as process:
        await until_waiting(server, 1)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    job = await server.submit()
    async with working(server, "--once", "--", "sleep", "60") as process:

        async def runs() -> bool:
            return bool((await server.job(job["id"]))["state"] == "running")

        await server.until(runs)
        process.send_signal(signal.SIGTERM)

        async def received() -> bool:
            return delivered(process.pid)

        await server.until(received)  # because two pending signals are merged
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
