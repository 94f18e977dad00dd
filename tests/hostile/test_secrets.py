"""Secrets of a server, a worker and a command: nothing that a run leaves or shows has them."""

import asyncio
import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from composerd_protocol.private_memory import keep_memory_private

from ..live.conftest import COMPOSER, JSON, LOOPBACK, WORKER, clean_environment
from ..live.test_bad_values import options
from ..tokens import bearer

ALICE = 4711
"""A user that no file of this machine has."""

MARK = "c0mp0serd-Secret"
"""A part of every secret that a test makes up."""

_COMMAND = """
env > $COMPOSERD_JOB_ARTIFACTS/environment
for process in self $PPID; do cat /proc/$process/environ /proc/$process/cmdline; done > $COMPOSERD_JOB_ARTIFACTS/proc
until test -e "$0"; do sleep 0.05; done
"""
"""The command of a job: it leaves what it sees, and ends when a file exists."""

REQUESTS = (
    "GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {0} {0}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization Bearer {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\x00\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\n folded\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nCookie: token={}\r\n\r\n",
    "GET /api/composer/v1/jobs?token={} HTTP/9.9\r\nHost: a\r\n\r\n",
    "GET /api/composer/v1/jobs?token={}\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://u:{}@[::1/api HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT {}[ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET {} HTTP/1.1\r\nHost: a\r\n\r\n",
    "{} / HTTP/1.1\r\nHost: a\r\n\r\n",
    "Authorization: Bearer {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nExpect: {}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: {}\r\nOrigin: http://{}\r\n\r\n",
    "GET /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}" + "a" * 9000 + "\r\n\r\n",
    "POST /api/composer/v1/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n",
)
"""Requests with a secret, most of them malformed."""


class Run:
    """Processes that may write core dumps, in a directory of their own, with their output in files there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, program: Sequence[str], *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a program of composerd."""
        with (self.directory / f"output-{len(self.processes)}").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=self.directory,
                env={**clean_environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_allow_core_dumps,  # noqa: PLW1509  # it makes a system call only
            )
        self.processes.append(process)
        return process

    def output(self, process: "subprocess.Popen[bytes]") -> str:
        """Return what a process has written so far."""
        return (self.directory / f"output-{self.processes.index(process)}").read_text(errors="replace")

    async def said(self, process: "subprocess.Popen[bytes]", pattern: str) -> "re.Match[str]":
        """Wait until the output of a process has something, and return that."""
        async with asyncio.timeout(30):
            while (found := re.search(pattern, self.output(process))) is None:
                assert process.poll() is None, self.output(process)
                await asyncio.sleep(0.02)
        return found

    def files(self) -> dict[str, bytes]:
        """Return the content of every file in the directory."""
        return {str(path): path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}

    def close(self) -> None:
        """Kill the processes that are left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _allow_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


COMPOSERD = ("-m", "composerd.cli.main")
COMPOSERD_WORKER = ("-c", "from composerd_client.worker.command_line import main; main()")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Return a run in a directory of its own."""
    directory = tmp_path / "run"
    directory.mkdir()
    made = Run(directory)
    yield made
    made.close()


def dumps_core(process: "subprocess.Popen[bytes]") -> bool:
    """Let a process crash, and return True if the kernel has written its memory."""
    process.send_signal(signal.SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def new_token(run: Run, name: str, role: str) -> str:
    """Make a token with the command, and return it."""
    command = [sys.executable, "-m", "composerd.cli.main", "token", "create", "--name", name, "--role", role]
    made = subprocess.run([*command, "--tokens", str(run.directory / "tokens")], capture_output=True, check=True)
    return made.stdout.decode().strip()


async def send(address: tuple[str, int], sender: str, request: str) -> bytes:
    """Send bytes that need not be a request from an address, and return the answer."""
    reader, writer = await asyncio.open_connection(*address, local_addr=(sender, 0))
    writer.write(request.encode("latin-1"))
    async with asyncio.timeout(20):
        answer = await reader.readuntil(b"\r\n\r\n")
        if found := re.search(rb"(?i)content-length: (\d+)", answer):
            answer += await reader.readexactly(int(found[1]))
    writer.close()
    return answer


def command_lines() -> bytes:
    """Return the command lines of all processes."""
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += path.read_bytes()
        except OSError:
            continue
    return found


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_is_left(run: Run, form: str) -> None:
    """Logs, answers, metrics, command lines, environments, files and core dumps have no token after a whole run."""
    tokens = [new_token(run, role, role) for role in ("worker", "submitter", "admin")]
    worker_token, submitter_token, admin_token = tokens
    serving = run.start(
        COMPOSERD,
        *("serve", "--listen", f"{LOOPBACK}:0", "--storage", f"fs:{run.directory / 'state'}"),
        *("--tokens", str(run.directory / "tokens"), "--log-level", "debug", "--log-format", form),
    )
    url = (await run.said(serving, r"listening on (\S+)"))[1]
    host, port = url.removeprefix("http://").split(":")
    gate = run.directory / "go on"
    working = run.start(
        COMPOSERD, "worker", "--server", url, "--type", "build", "--", "sh", "-c", _COMMAND, str(gate),
        COMPOSERD_TOKEN=worker_token, COMPOSERD_STORAGE=f"postgresql://u:{MARK}@h/d", COMPOSERD_LATER=MARK,
    )  # fmt: skip
    submitting = run.start(COMPOSERD, "submit", "build", "--wait", "--server", url, COMPOSERD_TOKEN=submitter_token)
    seen: dict[str, bytes] = {}

    async with aiohttp.ClientSession(url) as http:

        async def ask(method: str, path: str, token: str, body: Any = None) -> Any:
            async with http.request(method, path, headers=JSON | bearer(token), json=body) as answer:
                seen[f"{method} {path} {len(seen)}"] = await answer.read()
                return await answer.json() if answer.content_type == "application/json" else None

        async with asyncio.timeout(30):
            while True:
                if (await ask("GET", f"{COMPOSER}/jobs?state=running", admin_token))["items"]:
                    break
                await asyncio.sleep(0.05)
        seen["command lines"] = command_lines()
        await ask("POST", f"{COMPOSER}/jobs", submitter_token, {"type": "other"})
        attempt = await ask("POST", f"{WORKER}/jobs", worker_token, {"types": ["other"], "arch": "x"})
        location = attempt["location"].rpartition("/")[2]
        for token in (admin_token[:-1], admin_token[:-1] + "!", f"{MARK}-token"):
            await ask("GET", f"{COMPOSER}/jobs", token)
        await ask("PATCH", attempt["location"], submitter_token, {"result": 1})
        await ask("PATCH", attempt["location"], worker_token, {"result": "x" * 100})
        await ask("PATCH", attempt["location"], worker_token, {"result": 1})
        for number, request in enumerate(REQUESTS, 1):
            for secret in (f"{MARK}-request", admin_token):
                sender = f"127.0.7.{number}"  # so that the server does not slow down a client with many wrong attempts
                seen[request + secret] = await send((host, int(port)), sender, request.format(secret, secret))
        await ask("GET", "/metrics", admin_token)
        await ask("GET", "/readyz", admin_token)
        gate.touch()
        await asyncio.to_thread(submitting.wait, 30)
        jobs = await ask("GET", f"{COMPOSER}/jobs?type=build", admin_token)
        for name in ("environment", "proc"):
            await ask("GET", f"{COMPOSER}/jobs/{jobs['items'][0]['id']}/artifacts/{name}", admin_token)
            assert b"COMPOSERD_JOB_ID" in list(seen.values())[-1]
    assert not dumps_core(working)
    assert not dumps_core(serving)
    assert sum(len(content) for content in run.files().values()) > 3000
    for name, content in {**seen, **run.files()}.items():
        for secret in (MARK, *(token[10:40] for token in tokens)):
            assert secret.encode() not in content, name
    assert location
    assert [name for name, content in run.files().items() if location.encode() in content] == []


def test_no_option_takes_a_secret() -> None:
    """Secrets come from files and the environment: no option of a command has one as its value."""
    named = {name for _, option in options() for name in [option.removeprefix("--")]}
    assert named > {"tokens", "token-file"}
    assert not [name for name in named if name.endswith(("token", "secret", "password", "passphrase"))]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (COMPOSERD, ("serve", "--storage", "memory:", "--listen")),
        (COMPOSERD, ("worker", "--type", "a", "--", "true")),
        (COMPOSERD_WORKER, ("--type", "a", "--", "true")),
        (COMPOSERD, ("submit", "a")),
    ],
)
async def test_no_core_dump(run: Run, program: Sequence[str], arguments: Sequence[str]) -> None:
    """A crash of a program that may have secrets writes no core dump, although the limit of the system allows one."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        if arguments[-1] == "--listen":
            process = run.start(program, *arguments, f"{LOOPBACK}:0")
            await run.said(process, "listening on")
        else:
            process = run.start(program, *arguments, COMPOSERD_SERVER=f"http://{LOOPBACK}:{silent.getsockname()[1]}")
            silent.settimeout(30)
            connected, _ = await asyncio.to_thread(silent.accept)  # it waits for an answer from now on
            connected.close()
        assert not dumps_core(process)
    assert not [path for path in run.files() if "core" in path.rpartition("/")[2]]
    other = run.start(("-m", "timeit"), "-s", "print('ready', flush=True)", "import time; time.sleep(60)")
    await run.said(other, "ready")
    assert dumps_core(other), "the kernel writes no core dumps on this machine, so this test shows nothing"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("private", [True, False])
def test_private_memory(private: bool) -> None:
    """A process of the same user cannot read the environment of a process with private memory, and can of others."""
    ready, told = os.pipe()
    holder = os.fork()
    if not holder:
        os.setresuid(ALICE, ALICE, ALICE)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, because it has changed its user
        if private:
            keep_memory_private()
        os.write(told, b"!")
        signal.pause()
    os.read(ready, 1)
    reader = os.fork()
    if not reader:
        os.setresuid(ALICE, ALICE, ALICE)
        try:
            Path(f"/proc/{holder}/environ").read_bytes()
        except PermissionError:
            os._exit(7)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == (7 if private else 0)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    os.close(ready)
    os.close(told)


_HIDDEN = f"""
import os, signal
from composerd_fs.journal.lock import _running, _start_of
os.setgroups([])
os.setresgid({ALICE}, {ALICE}, {ALICE})  # the group 0 sees everything
reads, writes = os.pipe()
holder = os.fork()
if not holder:
    os.setresuid({ALICE}, {ALICE}, {ALICE})  # which makes its memory private
    os.write(writes, _start_of(os.getpid()).encode())
    signal.pause()
written = f"{{holder}}\\n{{os.read(reads, 100).decode()}}\\n0\\nfuse\\n"
reader = os.fork()
if not reader:
    os.setresuid({ALICE}, {ALICE}, {ALICE})
    assert not os.path.exists(f"/proc/{{holder}}")
    os._exit(7 if _running(written, "fuse") == str(holder) else 0)
assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 7
os.kill(holder, signal.SIGKILL)
os.waitpid(holder, 0)
assert _running(written, "fuse") is None
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount /proc")
def test_a_storage_of_a_hidden_process() -> None:
    """A storage is in use also if /proc hides the process that uses it, because its memory is private."""
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$0" -c "$1"'
    shell = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", mount, sys.executable, _HIDDEN]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
