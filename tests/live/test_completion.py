"""Completion in real shells, of what the commands and a server know, in less time than somebody notices."""

import asyncio
import fcntl
import math
import os
import pty
import resource
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from composerd_client import ComposerClient

from .conftest import NOBODY, Serve, Server, clean_environment
from .test_tls import Files

PROGRAM = Path(sys.executable).with_name("composerd")

_MOST_ATTEMPTS = 10
"""A server on a busy machine may be too slow for one completion, but not for all of so many."""

START = {
    # shell: its command, and what it is told first; ^Xl writes the line into a file
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        """eval "$(composerd completion bash)"; bind -x '"\\C-xl": printf %s "$READLINE_LINE" > new; mv new line'""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        """autoload -Uz compinit; compinit -u -D; eval "$(composerd completion zsh)"
        show() { print -rn -- $BUFFER > new; mv new line }; zle -N show; bindkey ^Xl show""",
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        "composerd completion fish | source; bind \\cxl 'commandline > new; mv new line'",
    ),
}

_HASH = f"sha256:{'0' * 32}:{'0' * 64}"

TOKENS = f"""\
name=builder-7 role=worker created=2026-01-30 id=AAAAAAAA hash={_HASH}
name=builder-8 role=worker created=2026-01-30 id=BBBBBBBB hash={_HASH}
name=builder-8 id=BBBBBBBB revoked=2026-01-31
"""

LINES = {
    # what is typed before the tab: the line after it
    "composerd sta": "composerd status ",
    "composerd storage mo": "composerd storage move ",
    "composerd serve --log-l": "composerd serve --log-level ",
    "composerd serve --log-format j": "composerd serve --log-format json ",
    "composerd jobs --state ru": "composerd jobs --state running ",
    "composerd jobs --state=w": "composerd jobs --state=waiting ",
    "composerd completion z": "composerd completion zsh ",
    "composerd submit --graph gr": "composerd submit --graph graph.json ",
    "composerd submit x --args @gr": "composerd submit x --args @graph.json ",
    "composerd submit x --args=@dir": "composerd submit x --args=@directory/",
    "composerd serve --tls-key gr": "composerd serve --tls-key graph.json ",
    "composerd artifacts x --download dir": "composerd artifacts x --download directory/",
    "composerd worker --type x -- ./gr": "composerd worker --type x -- ./graph.json ",
    "composerd storage info --storage f": "composerd storage info --storage fs:",
    "composerd storage info --storage fs:dir": "composerd storage info --storage fs:directory/",
    "composerd storage move --from=fs:dir": "composerd storage move --from=fs:directory/",
    "composerd token revoke --tokens tokens builder-": "composerd token revoke --tokens tokens builder-7 ",
    "composerd token rev": "composerd token revoke ",
    "composerd token create --role su": "composerd token create --role submitter ",
    "composerd jobs --type tes": "composerd jobs --type test:x ",
    "composerd jobs --type test:": "composerd jobs --type test:x ",
    "composerd jobs --type=test:": "composerd jobs --type=test:x ",
    "composerd worker --type wor": "composerd worker --type worked ",
    "composerd jobs --channel re": "composerd jobs --channel red ",
    "composerd wait {ready}": "composerd wait {READY} ",
    "composerd submit x --depends-on {ready}": "composerd submit x --depends-on {READY} ",
    "composerd delete {ended}": "composerd delete {ENDED} ",
    "composerd cancel {ended}": "composerd cancel {ended}",
}

LINES_WITH_A_SERVER = {
    "composerd wait --server {url} {ready}": "composerd wait --server {url} {READY} ",
    "composerd wait --server={url} {ready}": "composerd wait --server={url} {READY} ",
    "composerd wait {ready}": "composerd wait {ready}",
}
"""Lines in a shell whose environment names no server that is there."""


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, name: str, directory: Path, environment: Mapping[str, str]) -> None:
        command, start = START[name]
        self._line = directory / "line"
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=directory,
            env=environment,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        os.write(self._ours, f"{start}\n".encode())

    def _read(self) -> None:
        try:
            while os.read(self._ours, 65536):
                pass
        except OSError:
            pass  # the shell has exited

    async def started(self) -> None:
        """Wait until the shell reads keys and knows the one that writes the line into a file."""
        deadline = time.monotonic() + 30
        while not self._line.exists():
            assert time.monotonic() < deadline
            os.write(self._ours, b"\x15started\x18l")
            await asyncio.sleep(0.1)

    async def complete(self, line: str) -> str:
        """Type a line and a tab, and return what the line is then."""
        self._line.unlink(missing_ok=True)
        os.write(self._ours, b"\x15" + line.encode() + b"\t\x18l")
        deadline = time.monotonic() + 30
        while not self._line.exists() or "started" in self._line.read_text():
            assert time.monotonic() < deadline, line
            await asyncio.sleep(0.01)
        return self._line.read_text().rstrip("\n")

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._ours)


@pytest.fixture
async def known(serve: Serve, tmp_path: Path) -> tuple[Server, dict[str, str]]:
    """Start a server with jobs and a worker, and return it with the ids of a job that is ready and one that ended."""
    server = await serve("--listen", f"unix:{tmp_path / 'socket'}")
    ready = await server.submit("test:x", channel="red")
    ended = await server.submit("odd;type", channel="odd$(channel)")
    await server.request("POST", f"{ended['href']}/cancel")
    await server.ask("worked", wait="1ms", worker_id=NOBODY)
    return server, {"ready": ready["id"], "ended": ended["id"]}


@pytest.mark.row("Commands", "composerd completion")
@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
async def test_in_a_shell(name: str, known: tuple[Server, dict[str, str]], tmp_path: Path) -> None:
    """A tab completes names, fixed values, files, schemes of storages, and ids, types and channels of the server."""
    if shutil.which(name) is None and "CI" not in os.environ:
        pytest.skip(f"needs {name}")
    server, ids = known
    directory = tmp_path / "cwd"
    (directory / "directory").mkdir(parents=True)
    (directory / "graph.json").touch()
    (directory / "tokens").write_text(TOKENS)
    fields = {name: id[:13] for name, id in ids.items()} | {name.upper(): id for name, id in ids.items()}
    fields["url"] = server.url
    for lines, url in ((LINES, server.url), (LINES_WITH_A_SERVER, "http://127.0.0.1:1")):
        environ = environment(server) | {"HOME": str(directory), "TERM": "xterm", "COMPOSERD_SERVER": url}
        shell = Shell(name, directory, environ)
        try:
            await shell.started()
            for typed, completed in lines.items():
                line = await shell.complete(typed.format(**fields))
                for _ in range(_MOST_ATTEMPTS):
                    if line != completed.format(**fields):
                        line = await shell.complete(typed.format(**fields))
                assert line == completed.format(**fields), typed
        finally:
            shell.close()


def environment(server: Server) -> dict[str, str]:
    """Return the environment of a shell that finds the command and the server."""
    path = f"{PROGRAM.parent}:{os.environ['PATH']}"
    return clean_environment() | {"PATH": path, "COMPOSERD_SERVER": server.url}


def completions(line: str, **env: str) -> list[str]:
    """Return the completions of the last word of a line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_COMPOSERD_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [str(PROGRAM)], env=clean_environment() | words | env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


async def test_values_of_a_server(known: tuple[Server, dict[str, str]], tmp_path: Path) -> None:
    """Ids are offered for what can be done with the job, newest first, and nothing that a shell would interpret."""
    server, ids = known
    for url in (server.url, f"unix:{tmp_path / 'socket'}", f"{server.url}/"):
        newest = await server.submit("test:x")

        def offered(line: str, url: str = url) -> list[str]:
            found = (completions(line, COMPOSERD_SERVER=url) for _ in range(_MOST_ATTEMPTS))
            return next(filter(None, found), [])

        assert offered("composerd cancel ")[:2] == [f"plain,{newest['id']}", *([f"plain,{ids['ready']}"] * 1)]
        assert f"plain,{ids['ended']}" in offered("composerd status ")
        assert offered("composerd delete ") == [f"plain,{ids['ended']}"]
        assert offered("composerd submit ") == ["plain,test:x", "plain,worked"]
        assert offered("composerd jobs --channel ") == ["plain,red"]
        await server.request("POST", f"{newest['href']}/cancel")
        await server.request("DELETE", newest["href"])


def test_names_of_tokens(tmp_path: Path) -> None:
    """Names of tokens that are not revoked are offered, and of a file with a mistake nothing, without an error."""
    path = tmp_path / "tokens"
    line = f"composerd token revoke --tokens {path} "
    assert completions(line) == []
    path.write_text(TOKENS)
    assert completions(line) == ["plain,builder-7"]
    path.write_text(f"{TOKENS}name=builder$(d) role=worker created=2026-01-30 id=CCCCCCCC hash={_HASH}\n")
    assert completions(line) == []


async def test_values_of_a_server_with_tls(serve: Serve, tmp_path: Path) -> None:
    """A server with TLS is asked with the files of the command line or of the environment, and not without them."""
    files = Files(tmp_path)
    files.trust(files.ca)
    server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"))
    pair = files.pair("worker")
    async with ComposerClient(server.url, ca_file=files.ca_file, **pair) as composer:
        job = await composer.submit("build")
    line = f"composerd wait --server {server.url} --ca-file {files.ca_file} "
    environ = {"COMPOSERD_CERT_FILE": pair["cert_file"], "COMPOSERD_KEY_FILE": pair["key_file"]}
    assert f"plain,{job.id}" in [one for _ in range(_MOST_ATTEMPTS) for one in completions(line, **environ)]
    assert completions(line) == []


async def test_servers_that_have_no_values() -> None:
    """Nothing is offered, soon and without an error, if the server is away, silent, wrong, or no composerd."""

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"items": [[7]]}')
        await writer.drain()
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        wrong = await asyncio.start_server(page, "127.0.0.1", 0)
        ports = [silent.getsockname()[1], wrong.sockets[0].getsockname()[1]]
        for url in (*(f"http://127.0.0.1:{port}" for port in ports), "http://127.0.0.1:1", "ftp://x", "unix:/nowhere"):
            began = time.monotonic()
            assert await asyncio.to_thread(completions, "composerd wait ", COMPOSERD_SERVER=url) == []
            assert await asyncio.to_thread(completions, "composerd jobs --type ", COMPOSERD_SERVER=url) == []
            assert time.monotonic() - began < 3
        wrong.close()
        await wrong.wait_closed()


@pytest.mark.parametrize(
    "line", ["", "jobs --sta", "jobs --state ", "serve --log-level ", "migrate --storage ", "wait ", "jobs --type "]
)
async def test_the_time(line: str, known: tuple[Server, dict[str, str]]) -> None:
    """A completion takes little processor time, so that with the wait for a server it is there within 150 ms."""
    server, _ = known

    def measure() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = completions(f"composerd {line}", COMPOSERD_SERVER=server.url)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime if found else math.inf

    assert min(measure() for _ in range(_MOST_ATTEMPTS)) < 0.1


@pytest.mark.parametrize(
    ("script", "left_out"),
    [
        (
            "composerd(['--help'], standalone_mode=False)",
            {"composerd.cli.jobs", "composerd.cli.serve", "composerd.cli.storage"},
        ),
        (
            "[composerd.get_command(context, name) for name in composerd.list_commands(context) if name != 'serve']",
            {"aiohttp", "asyncio", "composerd.settings", "composerd_client", "http.client", "msgspec", "rich"},
        ),
        ("composerd.get_command(context, 'serve')", {"aiohttp", "asyncio", "composerd.server", "rich"}),
    ],
)
def test_imports(script: str, left_out: set[str]) -> None:
    """A list of commands imports none of them, and their options, which completion imports, nothing that takes long."""
    script = f"""
import sys; from composerd.cli.main import click, composerd; context = click.Context(composerd)
{script}
print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert left_out & set(done.stderr.split()) == set()
