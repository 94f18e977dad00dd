"""The commands one by one: JSON, exit codes, completion in real shells."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import COMPOSER, NOBODY, Server
from .test_cli import composerd


@pytest.mark.parametrize(
    "command",
    [
        ["status", NOBODY],
        ["wait", NOBODY],
        ["cancel", NOBODY],
        ["delete", NOBODY],
        ["why", NOBODY],
        ["artifacts", NOBODY],
        ["jobs"],
        ["submit", "a"],
    ],
)
async def test_a_server_that_is_not_there(command: list[str]) -> None:
    """Without a server every client command says so in one sentence and exits 3."""
    ended = await composerd(*command, "--server", "http://127.0.0.1:1")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.count("\n") == 1
    assert "cannot be reached" in ended.err


@pytest.mark.parametrize("command", ["status", "wait", "cancel", "delete", "why", "artifacts"])
async def test_a_job_that_is_not_there(server: Server, command: str) -> None:
    """An unknown job is one sentence and exit code 1."""
    ended = await composerd(command, NOBODY, server=server)
    assert (ended.code, ended.out) == (1, "")
    assert "Job not found" in ended.err


async def test_delete(server: Server) -> None:
    """A job that has not ended stays, with exit code 1; one that has ended is deleted."""
    job = await server.submit()
    ended = await composerd("delete", job["id"], server=server)
    assert ended.code == 1
    assert "has not ended" in ended.err
    await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel")
    ended = await composerd("delete", job["id"], server=server)
    assert (ended.code, ended.out) == (0, f"{job['id']} is deleted\n")
    assert (await composerd("status", job["id"], server=server)).code == 1


async def test_why(server: Server) -> None:
    """Why a job is not running: a sentence and what it waits for, or the API's JSON."""
    job = await server.submit()
    later = await server.submit(dependencies=[job["id"]])
    ended = await composerd("why", later["id"], server=server)
    assert ended.out == f"It waits for a job to end.\n  waits for {job['id']}\n"
    ended = await composerd("why", job["id"], "--json", server=server)
    assert json.loads(ended.out)["reason"] == "No live worker is known for type build."


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_scripts(shell: str) -> None:
    """Each shell gets a script that names the command."""
    ended = await composerd("completion", shell)
    assert ended.code == 0
    assert "_COMPOSERD_COMPLETE" in ended.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash to complete in")
def test_completion_in_bash(tmp_path: Path) -> None:
    """In bash, with the script evaluated, subcommands and options are completed."""
    program = tmp_path / "composerd"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m composerd.cli.main "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(composerd completion bash)"; COMP_WORDS=(composerd jobs --sta); COMP_CWORD=2; '
        '_composerd_completion composerd --sta jobs; echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["--state"]
