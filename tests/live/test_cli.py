"""The command line with a real server: output and exit codes."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from composerd.cli import commands

from .conftest import COMPOSER, Serve, Server, clean_environment
from .processes import command


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


async def composerd(*arguments: str, stdin: bytes = b"", server: Server | None = None, **env: str) -> Ended:
    """Run a command until it exits."""
    process = command(*arguments, **environment(server, env))
    out = await asyncio.to_thread(process.communicate, stdin)
    err = process.said()
    process.close()
    assert "Traceback" not in err.decode()
    return Ended(process.wait(), out.decode(), err.decode())


def environment(server: Server | None, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: the URL of the server, and what the test adds."""
    known = {} if server is None else {"COMPOSERD_SERVER": server.url}
    return clean_environment() | known | dict(extra)


async def start(*arguments: str, server: Server | None = None, **env: str) -> asyncio.subprocess.Process:
    """Start a command."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "composerd.cli.main",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(server, env),
    )


@contextlib.asynccontextmanager
async def working(server: Server, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker process, which is killed at the end of the block if it still runs."""
    process = await start("worker", "--type", "build", *arguments, server=server)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def ended(server: Server, job: dict[str, Any]) -> dict[str, Any]:
    """Wait until a job has ended, and return it."""
    return await server.job(job["id"], wait="20s")


@pytest.mark.row("Commands", "composerd submit")
@pytest.mark.row("Commands", "composerd status")
@pytest.mark.row("Commands", "composerd jobs")
@pytest.mark.row("Commands", "composerd cancel")
@pytest.mark.row("Commands", "composerd artifacts")
async def test_submit_and_look(serve: Serve, tmp_path: Path) -> None:
    """The command `submit` prints the id; status, jobs, artifacts and cancel print lines in a pipe, or JSON."""
    server = await serve()
    (tmp_path / "args.json").write_text('{ "b":1,\n"a" : 2.50}')
    submitted = await composerd(
        "submit", "build", "--args", f"@{tmp_path / 'args.json'}", "--priority", "7", server=server
    )
    assert submitted.code == 0
    job_id = submitted.out.strip()
    assert (await server.request("GET", f"{COMPOSER}/jobs/{job_id}/args"))[1] == {"b": 1, "a": 2.5}
    status = await composerd("status", job_id, server=server)
    assert "state\tready" in status.out
    assert "priority\t7" in status.out
    assert json.loads((await composerd("status", job_id, "--json", server=server)).out)["state"] == "ready"
    listed = await composerd("jobs", "--state", "ready", server=server)
    assert listed.out.startswith(f"{job_id}\tbuild\tany\tready\t7\t")
    several = await composerd("jobs", "--state", "running", "--state", "ready", server=server)
    assert several.out == listed.out
    assert (await composerd("jobs", "--state", "running", "--state", "failed", server=server)).out == ""
    assert (await composerd("artifacts", job_id, server=server)).out == ""
    canceled = await composerd("cancel", job_id, server=server)
    assert canceled.out == f"{job_id} is canceled\n"
    waited = await composerd("wait", job_id, server=server)
    assert waited.code == 1
    assert waited.err == f"composerd: job {job_id} was canceled\n"


@pytest.mark.row("Commands", "composerd submit")
@pytest.mark.row("Commands", "composerd submit --graph")
async def test_args_from_stdin_and_a_graph_from_a_file(serve: Serve, tmp_path: Path) -> None:
    """`--args -` reads stdin, and `--graph` accepts TOML."""
    server = await serve()
    one = await composerd("submit", "build", "--args", "-", stdin=b"[1, 2]", server=server)
    assert (await server.request("GET", f"{COMPOSER}/jobs/{one.out.strip()}/args"))[1] == [1, 2]
    (tmp_path / "graph.toml").write_text(
        '[[jobs]]\nref = "a"\ntype = "build"\n[[jobs]]\ntype = "x"\ndependencies = ["a"]\n'
    )
    graph = await composerd("submit", "--graph", str(tmp_path / "graph.toml"), server=server)
    first, second = graph.out.split()
    assert (await server.job(second))["dependencies"] == [first]


@pytest.mark.row("Commands", "composerd submit --graph")
async def test_ids_before_the_wait(serve: Serve, tmp_path: Path) -> None:
    """With `--wait` the ids are printed before the wait, those of a graph with types and refs, so that ^C leaves them.

    All jobs are shown at the end, and the failure says how many did not finish.
    """
    server = await serve()
    (tmp_path / "graph.json").write_text(
        '[{"ref": "a", "type": "build"}, {"ref": "b", "type": "test", "dependencies": ["a"]}, {"type": "test"}]'
    )
    for arguments in (("--graph", str(tmp_path / "graph.json")), ("build",)):
        process = await start("submit", *arguments, "--wait", server=server)
        assert process.stderr is not None
        lines = [(await process.stderr.readline()).decode().rstrip("\n").split("\t") for _ in arguments]
        _, listed = await server.request("GET", f"{COMPOSER}/jobs")
        if len(arguments) == 1:
            assert lines == [[listed["items"][0]["id"]]]
        else:
            lines.append((await process.stderr.readline()).decode().rstrip("\n").split("\t"))
            ids = [job["id"] for job in reversed(listed["items"])]
            assert lines == [[ids[0], "build", "a"], [ids[1], "test", "b"], [ids[2], "test", ""]]
        for job in listed["items"]:
            await server.request("POST", f"{job['href']}/cancel")
        out, err = await process.communicate()
        assert process.returncode == 1
        assert out.decode().count("state\tcanceled\n") == len(lines)
        others = " (3 of 3 jobs did not finish)" if len(lines) == 3 else ""
        assert err.decode() == f"composerd: job {lines[0][0]} was canceled{others}\n"


@pytest.mark.row("Commands", "composerd cancel")
async def test_what_a_cancel_cancels(serve: Serve) -> None:
    """`composerd cancel` names the jobs that depend on the job and are canceled too, the first 20 of them."""
    server = await serve()
    first = await server.submit()
    before = await server.submit("early", dependencies=[first["id"]])
    assert (await composerd("cancel", before["id"], server=server)).out == f"{before['id']} is canceled\n"
    second = await server.submit("test", dependencies=[first["id"]])
    third = await server.submit("upload", dependencies=[first["id"], second["id"]])
    for _ in range(2):
        canceled = await composerd("cancel", second["id"], server=server)
        assert canceled.out.splitlines() == [
            f"{second['id']} is canceled",
            "1 job that depends on it is canceled too:",
            f"  {third['id']} upload",
        ]
    many = [await server.submit("test", dependencies=[first["id"]]) for _ in range(21)]
    canceled = await composerd("cancel", first["id"], server=server)
    named = [f"  {job['id']} test" for job in many]
    assert canceled.out.splitlines() == [
        f"{first['id']} is canceled",
        "21 jobs that depend on it are canceled too:",
        *named[:20],
        "  and 1 more",
    ]
    wide = await server.submit()
    for _ in range(101):
        await server.submit("test", dependencies=[wide["id"]])
    canceled = await composerd("cancel", wide["id"], server=server)
    assert canceled.out.splitlines()[1] == "At least 100 jobs that depend on it are canceled too:"
    assert canceled.out.splitlines()[-1] == "  and 80 more"


async def test_options_of_a_job_with_a_graph(tmp_path: Path) -> None:
    """An option that is about one job is refused together with a graph, and named as the file names it."""
    (tmp_path / "graph.json").write_text('{"jobs": []}')
    given = ["--timeout", "2s", "--args", "{}", "--key", "k"]
    ended = await composerd("submit", "--graph", str(tmp_path / "graph.json"), "--wait", *given)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("composerd: --graph cannot be combined with options for a job: write into the file: ")
    assert sorted(ended.err.rpartition(": ")[2].strip().split(", ")) == ["args", "idempotency_key", "timeout"]


async def test_args_that_name_a_file(serve: Serve, tmp_path: Path) -> None:
    """The path of a file in `--args` is an error that says how to read a file, and no other text is."""
    server = await serve()
    (tmp_path / "my args").write_text("{}")
    for path in (str(tmp_path / "my args"), "args.json", "./args", "a/b", "../x.JSON"):
        ended = await composerd("submit", "build", "--args", path, server=server)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == f"composerd: --args: {path} is not JSON; to read a file write --args @{path}\n"
    for text in ("{a.b", "hello", "", "1.", "[/a]", '{"a": "b/c"'):
        ended = await composerd("submit", "build", "--args", text, server=server)
        assert (ended.code, "write --args @" in ended.err) == (2, False), ended
    ended = await composerd("submit", "build", "--args", "@-", server=server)
    assert ended.err == "composerd: --args: -: No such file or directory; to read stdin write --args -\n"
    (tmp_path / "graph.yaml").write_text("jobs:\n")
    ended = await composerd("submit", "--graph", str(tmp_path / "graph.yaml"), server=server)
    assert (ended.code, "is not JSON" in ended.err, "as TOML in a file *.toml" in ended.err) == (2, True, True)


@pytest.mark.row("Exit codes", "1")
@pytest.mark.row("Exit codes", "2")
@pytest.mark.row("Exit codes", "3")
async def test_exit_codes(serve: Serve, tmp_path: Path) -> None:
    """A failed request exits with 1, a wrong command line with 2, an unreachable server with 3, with one sentence."""
    server = await serve()
    unknown = "00000000-0000-4000-8000-000000000000"
    cases = (
        (1, ("status", unknown), "Job not found"),
        (1, ("cancel", unknown), "Job not found"),
        (1, ("submit", "build", "--depends-on", unknown), "Unknown dependency"),
        (1, ("submit", "a b"), "Invalid content"),
        (2, ("submit",), "give a TYPE"),
        (2, ("submit", "build", "--args", "{"), "is not JSON"),
        (2, ("submit", "build", "--args", f"@{tmp_path}/none"), "No such file"),
        (2, ("submit", "build", "--priority", "high"), "priority"),
        (2, ("submit", "build", "--nonsense"), "nonsense"),
        (2, ("nonsense",), "nonsense"),
        (2, ("worker", "--type", "build", "--job", "1", "--", "true"), "--job"),
        (3, ("probe", "http://127.0.0.1:9"), "check URL"),
        (2, ("wait", unknown, "--timeout", "soon"), "not a duration"),
        (2, ("jobs", "--server", "ftp://x"), "is not a server"),
        (2, ("serve", "--listen", "127.0.0.1:0", "--storage", "nosuch:x"), "no storage driver for 'nosuch'"),
        (2, ("serve", "--listen", "127.0.0.1:0", "--storage", "fs:/tmp/x?y=1"), "takes no options"),
        (2, ("serve", "--listen", "nowhere"), "invalid value for --listen"),
        (2, ("serve", "--heartbeat-timeout", "soon"), "--heartbeat-timeout"),
    )
    for code, arguments, text in cases:
        result = await composerd(*arguments, server=server)
        assert (result.code, text in result.err) == (code, True), (arguments, result)
        assert result.err.count("\n") == 1, result.err
    away = await composerd("jobs", "--server", "http://127.0.0.1:9")
    assert (away.code, "cannot be reached" in away.err) == (3, True)
    bad = await composerd("serve", COMPOSERD_SWEEP_INTERVALL="5s")
    assert (bad.code, "COMPOSERD_SWEEP_INTERVALL" in bad.err) == (2, True)


async def test_a_server_in_kubernetes(serve: Serve) -> None:
    """A server starts with the variables that Kubernetes makes for a Service with the name composerd."""
    made = {
        "COMPOSERD_SERVICE_HOST": "10.0.0.11",
        "COMPOSERD_SERVICE_PORT": "8700",
        "COMPOSERD_SERVICE_PORT_HTTP": "8700",
        "COMPOSERD_PORT": "tcp://10.0.0.11:8700",
        "COMPOSERD_PORT_8700_TCP": "tcp://10.0.0.11:8700",
        "COMPOSERD_PORT_8700_TCP_PROTO": "tcp",
        "COMPOSERD_PORT_8700_TCP_PORT": "8700",
        "COMPOSERD_PORT_8700_TCP_ADDR": "10.0.0.11",
    }
    server = await serve(environment=made)
    assert (await composerd("jobs", server=server, stdin=b"", **made)).code == 0


@pytest.mark.row("Commands", "composerd submit")
@pytest.mark.row("Commands", "composerd worker")
@pytest.mark.row("Exit codes", "0")
async def test_submit_wait_and_download(serve: Serve, tmp_path: Path) -> None:
    """`--wait --download` waits for the job, downloads its artifacts, and exits with 0 if it finished."""
    server = await serve()
    async with working(server, "--", "sh", "-c", 'cat > "$COMPOSERD_ARTIFACTS/out.json"'):
        result = await composerd(
            "submit", "build", "--args", "[1]", "--wait", "--download", str(tmp_path / "got"), server=server
        )
    assert result.code == 0, result
    assert (tmp_path / "got" / "out.json").read_bytes() == b"[1]"
    assert "state\tfinished" in result.out


async def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    """Clients reach a server on a unix socket, also after a killed server has left its socket file behind."""
    server = await serve("--listen", f"unix:{tmp_path / 'socket'}")
    listed = await composerd("jobs", "--server", f"unix:{tmp_path / 'socket'}")
    assert listed.code == 0
    server.kill()
    await server.exited()
    await server.start()
    assert (await composerd("jobs", "--server", f"unix:{tmp_path / 'socket'}")).code == 0


@pytest.mark.row("Commands", "composerd drivers")
async def test_drivers() -> None:
    """`composerd drivers` lists the installed drivers with their distributions."""
    result = await composerd("drivers")
    assert "fs\tcomposerd" in result.out
    assert "memory\tcomposerd" in result.out


async def test_every_command_has_help_with_an_example() -> None:
    """The help of each subcommand contains an example."""
    listed = await composerd("--help")
    commands = [line.split()[0] for line in listed.out.partition("Commands:")[2].strip().splitlines()]
    assert len(commands) == 20
    for name in commands:
        if name in ("storage", "token"):
            continue
        assert "Example: composerd " in (await composerd(name, "--help")).out
    for name in ("info", "check", "backup", "salvage", "confirm-clock", "move"):
        assert f"Example: composerd storage {name} " in (await composerd("storage", name, "--help")).out
    for name in ("create", "list", "revoke", "rotate", "verify"):
        assert f"Example: composerd token {name} " in (await composerd("token", name, "--help")).out


def test_short_helps() -> None:
    """The list of subcommands, which imports none of them, has the first sentence of the help of each."""
    context = click.Context(commands.composerd)
    for name, listed in commands._SUBCOMMANDS.items():
        command = commands.composerd.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == listed.help
