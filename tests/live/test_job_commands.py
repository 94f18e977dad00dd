"""The command that a worker runs for each job: what it gets and leaves, its progress, and its end."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from .conftest import COMPOSER, Serve
from .test_cli import ended, working


@pytest.mark.row("Commands", "composerd worker")
async def test_input_and_output_of_a_command(serve: Serve) -> None:
    """A command gets args, variables and an empty directory; without a result file its output is the result."""
    server = await serve()
    job = await server.submit(args={"x": 1})
    script = 'cat; ls -A; echo "$COMPOSERD_JOB_TYPE $COMPOSERD_ARCH" >&2; echo hello > "$COMPOSERD_ARTIFACTS/a b.txt"'
    async with working(server, "--arch", "x86_64", "--", "sh", "-c", script):
        done = await ended(server, job)
    assert done["result"] == {"exit_status": 0, "stdout": '{"x": 1}', "stderr": "build x86_64\n"}
    _, artifacts = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}/artifacts")
    assert [(one["name"], one["size"]) for one in artifacts["items"]] == [("a b.txt", 6)]


async def test_variables_of_a_command(serve: Serve) -> None:
    """Each variable of a job begins with COMPOSERD_JOB_, and those with an earlier name have it as well."""
    server = await serve()
    job = await server.submit()
    async with working(server, "--arch", "s390x", "--", "env"):
        done = await ended(server, job)
    variables = dict(line.split("=", 1) for line in done["result"]["stdout"].splitlines() if "=" in line)
    own = {name: value for name, value in variables.items() if name.startswith("COMPOSERD_JOB_")}
    assert (own["COMPOSERD_JOB_ID"], own["COMPOSERD_JOB_TYPE"], own["COMPOSERD_JOB_ARCH"]) == (
        job["id"],
        "build",
        "s390x",
    )
    for name in ("ARCH", "ARTIFACTS", "DYNAMIC_ARGS", "PROGRESS", "RESULT"):
        assert variables[f"COMPOSERD_{name}"] == own[f"COMPOSERD_JOB_{name}"]
    assert len(own) == 7


async def test_a_server_in_a_job(serve: Serve, tmp_path: Path) -> None:
    """A command may start a server, and client commands, whose settings the variables of the job do not change."""
    server = await serve()
    job = await server.submit()
    program = f"{sys.executable} -m composerd.cli.main"
    script = (
        f"{program} serve --listen 127.0.0.1:0 --storage fs:{tmp_path}/inner > {tmp_path}/said & "
        f"until grep -q listening {tmp_path}/said || ! kill -0 $!; do sleep 0.05; done; "
        f"url=$(sed -n 's/listening on //p' {tmp_path}/said); "
        f"export COMPOSERD_SERVER=$url; id=$({program} submit inner) && {program} jobs; kill $!; wait $!"
    )
    async with working(server, "--", "sh", "-c", script):
        done = await ended(server, job)
    assert done["state"] == "finished", done["result"]
    assert "\tinner\tany\tready" in done["result"]["stdout"]
    assert (tmp_path / "inner" / "artifacts").is_dir()  # where the driver has them, not where the job has its own


async def test_a_failing_command(serve: Serve) -> None:
    """A non-zero exit status adds a `job_error`, and fails a worker that runs one job."""
    server = await serve()
    job = await server.submit()
    async with working(server, "--", "sh", "-c", 'echo \'{"own":1}\' > "$COMPOSERD_RESULT"; echo why >&2; exit 3'):
        done = await ended(server, job)
    assert done["state"] == "failed"
    assert done["result"]["own"] == 1
    assert done["result"]["job_error"] == {"id": 10, "reason": "The command exited with status 3: why", "details": None}
    job = await server.submit()
    async with working(server, "--once", "--", "false") as process:
        assert (await ended(server, job))["state"] == "failed"
        assert await process.wait() == 1


async def test_progress_of_a_command(serve: Serve) -> None:
    """A line of JSON that the command appends to its progress file becomes the job's `partial`."""
    server = await serve()
    job = await server.submit()
    script = 'echo \'{"done": 40}\' >> "$COMPOSERD_PROGRESS"; sleep 60'
    async with working(server, "--", "sh", "-c", script):

        async def seen() -> bool:
            return bool((await server.job(job["id"]))["partial"] == {"done": 40})

        await server.until(seen)
    await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel")


async def test_cancel_stops_the_command(serve: Serve, tmp_path: Path) -> None:
    """A cancel sends SIGTERM to the command's process group at once, and the worker runs the next job."""
    server = await serve()
    job = await server.submit()
    script = (
        f'trap "echo terminated > {tmp_path}/said; exit" TERM; echo up > {tmp_path}/up; while :; do sleep 0.1; done'
    )
    async with working(server, "--", "sh", "-c", script):

        async def up() -> bool:
            return (tmp_path / "up").exists()

        await server.until(up)
        await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel")

        async def said() -> bool:
            return (tmp_path / "said").exists()

        await server.until(said)
        for name in ("up", "said"):
            (tmp_path / name).unlink()
        another = await server.submit()
        await server.until(up)
        await server.request("POST", f"{COMPOSER}/jobs/{another['id']}/cancel")
        await server.until(said)


async def test_sigterm_to_a_worker(serve: Serve, tmp_path: Path) -> None:
    """After SIGTERM a worker finishes its running job; after a second SIGTERM it releases the job, uncounted."""
    server = await serve()
    script = f"echo up > {tmp_path}/up; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo done"

    async def up() -> bool:
        return (tmp_path / "up").exists()

    for state in ("ready", "finished"):
        job = await server.submit()
        async with working(server, "--", "sh", "-c", script) as process:

            async def received(pid: int = process.pid) -> bool:
                return delivered(pid)

            await server.until(up)
            process.send_signal(signal.SIGTERM)
            another = await server.submit(priority=-1)
            if state == "finished":
                (tmp_path / "go").touch()
            else:
                await server.until(received)  # because two pending signals are merged
                process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        after = await server.job(job["id"])
        assert (after["state"], after["retries"]) == (state, 0)
        if state == "ready":
            await server.request("POST", f"{job['href']}/cancel")
            (tmp_path / "up").unlink()
        assert (await server.job(another["id"]))["state"] == "ready"
        await server.request("POST", f"{another['href']}/cancel")


def delivered(pid: int) -> bool:
    """Return True if a process has received all signals that were sent to it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return all(int(line.split()[1], 16) == 0 for line in lines if line.startswith(("SigPnd:", "ShdPnd:")))


async def test_a_worker_outlives_the_server(serve: Serve, tmp_path: Path) -> None:
    """If the server is killed while a job runs, the worker reports the result after the next start."""
    server = await serve()
    job = await server.submit()
    script = f"echo up > {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; echo late"
    async with working(server, "--", "sh", "-c", script):

        async def up() -> bool:
            return (tmp_path / "up").exists()

        await server.until(up)
        server.kill()
        await server.exited()
        reported = asyncio.Event()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if (await reader.readline()).startswith(b"PATCH "):
                reported.set()
            writer.close()

        async with await asyncio.start_server(hang_up, *server.address):
            (tmp_path / "go").touch()
            await reported.wait()
        await server.start()
        done = await ended(server, job)
    assert (done["state"], done["result"]["stdout"], done["retries"]) == ("finished", "late\n", 0)
