"""The command line with a real server: output, exit codes, and the command of a worker."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

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
    assert len(commands) == 16
    for name in commands:
        if name == "storage":
            continue
        assert "Example: composerd " in (await composerd(name, "--help")).out
    for name in ("info", "check", "move"):
        assert f"Example: composerd storage {name} " in (await composerd("storage", name, "--help")).out
