"""Commands whose output is closed, on a full disk, or cannot show every character."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Server, clean_environment

COMMANDS = [["jobs"], ["jobs", "--json"], ["status", "JOB"], ["completion", "bash"], ["--help"]]


async def shell(
    server: Server, script: str, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    """Run a script in which `"$@"` is a command, and return the completed process."""
    return await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", script, "bash", sys.executable, "-m", "composerd.cli.main", *arguments],
        env=clean_environment() | {"COMPOSERD_SERVER": server.url} | environment,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_output_that_goes_nowhere(server: Server, command: list[str]) -> None:
    """Output to a full disk is an error in one sentence; a closed pipe or descriptor is not reported."""
    job = await server.submit()
    arguments = [job["id"] if one == "JOB" else one for one in command]
    full = await shell(server, '"$@" > /dev/full', *arguments)
    assert (full.returncode, full.stderr) == (1, b"composerd: cannot write the output: No space left on device\n")
    gone = await shell(server, 'exec 3> >(exit); wait $!; "$@" >&3', *arguments)
    assert (gone.returncode, gone.stderr) == (1, b"")
    closed = await shell(server, '"$@" >&-', *arguments)
    assert (closed.returncode, closed.stderr) == (0, b"")


async def test_errors_that_go_nowhere(server: Server) -> None:
    """With stderr closed, the exit code still reports an error."""
    assert (await shell(server, '"$@" 2>&-', "status", "x")).returncode == 1


async def test_names_that_cannot_be_shown(server: Server) -> None:
    """Characters that the terminal cannot show are escaped, and JSON is always UTF-8."""
    await server.submit("\xe9t\xe9")
    shown = await shell(server, '"$@"', "jobs", PYTHONIOENCODING="ascii")
    assert (shown.returncode, b"\\xe9t\\xe9" in shown.stdout, shown.stderr) == (0, True, b"")
    listed = await shell(server, '"$@"', "jobs", "--json", PYTHONIOENCODING="ascii")
    assert json.loads(listed.stdout)["items"][0]["type"] == "\xe9t\xe9"


@pytest.mark.parametrize(
    "script",
    [
        '"$@" submit a --args "$(printf \'"\\377"\')"',
        '"$@" submit a --key "$(printf "\\377")"',
        '"$@" status "$(printf "\\377")"',
        '"$@" jobs --server "http://$(printf "\\377"):1"',
        '"$@" serve --listen "$(printf "\\377"):1"',
        '"$@" serve --storage "memory:" --artifacts "$(printf "\\377")"',
    ],
)
async def test_arguments_that_are_no_text(server: Server, script: str, tmp_path: Path) -> None:
    """An argument that is not text is an error in one sentence with exit code 2."""
    said = await shell(server, f"cd {tmp_path}; {script}")
    assert (said.returncode, said.stdout) == (2, b"")
    assert said.stderr.startswith(b"composerd: ")
    assert said.stderr.count(b"\n") == 1


async def test_a_reason_of_several_lines(server: Server) -> None:
    """An error stays in one line if a worker's reason has several lines."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    await server.finish(attempt, {"job_error": {"id": 1, "reason": "first\n  second\r\n"}})
    said = await shell(server, '"$@"', "wait", job["id"])
    assert (said.returncode, said.stderr) == (1, f"composerd: job {job['id']} failed: first second\n".encode())
