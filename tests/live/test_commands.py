"""Single commands: JSON, exit codes, completion in real shells."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMPOSER, JSON, NOBODY, Serve, Server, send, until_waiting
from .test_cli import Ended, composerd


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
        ["submit", "a", "--wait"],
    ],
)
async def test_an_unreachable_server(command: list[str]) -> None:
    """Every client command exits with 3 and one sentence if the server cannot be reached."""
    ended = await composerd(*command, "--server", "http://127.0.0.1:1")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.count("\n") == 1
    assert "cannot be reached" in ended.err


@pytest.mark.parametrize("command", ["status", "wait", "cancel", "delete", "why", "artifacts"])
async def test_an_unknown_job(server: Server, command: str) -> None:
    """An unknown job is exit code 1 and an error."""
    ended = await composerd(command, NOBODY, server=server)
    assert (ended.code, ended.out) == (1, "")
    assert "Job not found" in ended.err


async def test_a_server_that_is_unavailable(serve: Serve) -> None:
    """A server that answers nothing but 503, and a proxy that answers in its place, are exit code 3."""
    server = await serve(storage="postgresql://nobody@127.0.0.1:1/none")
    for command in (["jobs"], ["submit", "a"], ["submit", "a", "--wait"], ["cancel", NOBODY], ["wait", NOBODY]):
        ended = await composerd(*command, server=server)
        assert (ended.code, ended.out) == (3, ""), ended
        assert ended.err.count("\n") == 1

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(page, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        for command in (["jobs"], ["cancel", NOBODY]):
            ended = await composerd(*command, "--server", f"http://127.0.0.1:{port}")
            assert (ended.code, "nginx" in ended.err) == (3, True), ended


@pytest.mark.row("Exit codes", "4")
async def test_how_a_wait_ends(serve: Serve) -> None:
    """A wait that ends by its timeout, by a failed job, a canceled job or a lost server has another exit code each.

    After its timeout a wait says that the job has not ended only if the server is there to say so.
    """
    server = await serve()
    timed, failed, canceled, finished, lost = [await server.submit(type) for type in "abcde"]

    def waiting(job: dict[str, Any], *options: str) -> "asyncio.Task[Ended]":
        return asyncio.create_task(composerd("wait", job["id"], *options, server=server))

    waits = [waiting(failed), waiting(canceled, "--timeout", "5m"), waiting(finished, "--timeout", "5m")]
    for job, result in ((failed, {"job_error": {"id": 1, "reason": "no luck"}}), (finished, None)):
        attempt = await server.ask(job["type"])
        assert attempt is not None
        await server.finish(attempt, result)
    await server.request("POST", f"{canceled['href']}/cancel")
    assert [one.code for one in await asyncio.gather(*waits)] == [1, 1, 0]
    ended = await waiting(timed, "--timeout", "100ms")
    assert (ended.code, ended.out, ended.err) == (4, "", f"composerd: job {timed['id']} has not ended yet\n")
    stopped = waiting(lost, "--timeout", "2s")
    await until_waiting(server, 1)
    server.kill()
    await server.exited()
    ended = await stopped
    assert (ended.code, ended.out) == (3, "")
    trying, failed_at_last = ended.err.splitlines()
    assert trying.startswith("composerd: cannot ")
    assert "trying again" in trying
    assert failed_at_last.startswith(f"composerd: {server.url} cannot be reached")


@pytest.mark.row("Commands", "composerd wait")
async def test_wait(server: Server) -> None:
    """`composerd wait` ends with the job or after the timeout, and its exit code is the job's."""
    job = await server.submit()
    late = await composerd("wait", job["id"], "--timeout", "100ms", server=server)
    assert (late.code, late.err) == (4, f"composerd: job {job['id']} has not ended yet\n")
    waiting = asyncio.create_task(composerd("wait", job["id"], "--json", server=server))
    await until_waiting(server, 1)
    attempt = await server.ask()
    assert attempt is not None
    await send(server, "PATCH", attempt["location"], b'{"result":[1.50]}', **JSON)
    ended = await waiting
    assert ended.code == 0
    assert '"result":[1.50]' in ended.out


@pytest.mark.row("Commands", "composerd submit")
@pytest.mark.row("Commands", "composerd jobs")
@pytest.mark.row("Commands", "composerd status")
@pytest.mark.row("Commands", "composerd cancel")
@pytest.mark.row("Commands", "composerd artifacts")
async def test_json(server: Server) -> None:
    """`--json` prints the answer of the API."""
    shown = json.loads((await composerd("submit", "build", "--json", server=server)).out)
    path = f"{COMPOSER}/jobs/{shown['id']}"
    assert shown == (await server.request("GET", path))[1]
    assert json.loads((await composerd("status", shown["id"], "--json", server=server)).out) == shown
    listed = json.loads((await composerd("jobs", "--json", server=server)).out)
    assert listed == (await server.request("GET", f"{COMPOSER}/jobs"))[1]
    canceled = json.loads((await composerd("cancel", shown["id"], "--json", server=server)).out)
    assert canceled == (await server.request("GET", path))[1]
    artifacts = json.loads((await composerd("artifacts", shown["id"], "--json", server=server)).out)
    assert artifacts == (await server.request("GET", f"{path}/artifacts"))[1]


@pytest.mark.row("Commands", "composerd status")
@pytest.mark.row("Commands", "composerd jobs")
@pytest.mark.row("Commands", "composerd why")
async def test_times(server: Server) -> None:
    """Times are printed as the server writes them, with microseconds also at a full second."""
    time = "2030-01-31T12:00:00.000000Z"
    job = await server.submit(not_before="2030-01-31T13:00:00+01:00")
    assert f"not_before\t{time}\n" in (await composerd("status", job["id"], server=server)).out
    assert f'"not_before":"{time}"' in (await composerd("jobs", "--json", server=server)).out
    assert f"  not before {time}\n" in (await composerd("why", job["id"], server=server)).out
    (line,) = (await composerd("jobs", server=server)).out.splitlines()
    assert line.split("\t")[-1] == job["queued_at"][:19].replace("T", " ")


@pytest.mark.row("Commands", "composerd submit --graph")
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("prioriti = 1", "job 2: a job has no field 'prioriti'; its fields are arch, args"),
        ("timeout = 90", "job 2: timeout must be a timedelta, or text with a unit such as '90s', and not int"),
        ("not_before = 2030-01-31T12:00:00", "job 2: not_before must have a time zone"),
    ],
)
async def test_a_graph_with_a_mistake(server: Server, tmp_path: Path, field: str, message: str) -> None:
    """A field that does not exist, or has a wrong value, is named with its job, and nothing is submitted."""
    graph = tmp_path / "graph.toml"
    graph.write_text(f'[[jobs]]\ntype = "a"\n[[jobs]]\ntype = "b"\n{field}\n')
    ended = await composerd("submit", "--graph", str(graph), server=server)
    assert (ended.code, ended.out) == (2, "")
    assert f"{graph}: {message}" in ended.err
    assert (await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"] == []


@pytest.mark.row("Commands", "composerd delete")
async def test_delete(server: Server) -> None:
    """`composerd delete` deletes an ended job, and refuses one that has not ended with exit code 1."""
    job = await server.submit()
    ended = await composerd("delete", job["id"], server=server)
    assert ended.code == 1
    assert "has not ended" in ended.err
    await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel")
    ended = await composerd("delete", job["id"], server=server)
    assert (ended.code, ended.out) == (0, f"{job['id']} is deleted\n")
    assert (await composerd("status", job["id"], server=server)).code == 1


@pytest.mark.row("Commands", "composerd why")
async def test_why(server: Server) -> None:
    """`composerd why` prints the reason and the dependencies that the job waits for, or the JSON of the API."""
    job = await server.submit()
    later = await server.submit(dependencies=[job["id"]])
    ended = await composerd("why", later["id"], server=server)
    assert ended.out == f"Waiting for 1 dependency to end.\n  waits for {job['id']}\n"
    ended = await composerd("why", job["id"], "--json", server=server)
    assert json.loads(ended.out)["reason"] == "No live worker is known for type build."


@pytest.mark.row("Commands", "composerd completion")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_scripts(shell: str) -> None:
    """`composerd completion` prints a script for each shell."""
    ended = await composerd("completion", shell)
    assert ended.code == 0
    assert "_COMPOSERD_COMPLETE" in ended.out


def test_completion_in_bash(tmp_path: Path, bash: str) -> None:
    """With the script, bash completes options of subcommands."""
    program = tmp_path / "composerd"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m composerd.cli.main "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(composerd completion bash)"; COMP_WORDS=(composerd jobs --sta); COMP_CWORD=2; '
        '_composerd_completion composerd --sta jobs; echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["--state"]
