"""Commands as real processes, forked from one that has done the imports: starting Python anew was most of what the live tests did."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from queue import Queue
from typing import IO

_PACKET = 1 << 17

_FORKER = f"""
import json, os, select, signal, socket, sys
import click, composerd.server.supervisor, composerd.client, composerd_fs, rich.progress, rich.table

control = socket.socket(fileno=int(sys.argv[1]))
wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
signal.set_wakeup_fd(woken)
signal.signal(signal.SIGCHLD, lambda *_: None)
running = set()
while True:
    ready, _, _ = select.select([control, wake], [], [])
    if wake in ready:
        os.read(wake, 512)
        while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            running.discard(ended[0])
            control.send(json.dumps([ended[0], os.waitstatus_to_exitcode(ended[1])]).encode())
    if control not in ready:
        continue
    told, files, _, _ = socket.recv_fds(control, {_PACKET}, 3)
    if not told:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)
    pid = os.fork()
    if not pid:
        break
    running.add(pid)
    control.send(json.dumps([pid, None]).encode())
    for file in files:
        os.close(file)

signal.set_wakeup_fd(-1)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
control.close()
os.close(wake)
os.close(woken)
for number, file in enumerate(files):
    os.dup2(file, number)
    os.close(file)
sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # what they know is of other files
arguments, environment = json.loads(told)
os.environ.clear()
os.environ.update(environment)
sys.argv = ["composerd", *arguments]
from composerd.cli.main import main
main()
"""
"""Modules that look at the environment or the terminal are imported after the fork."""


class Process:
    """A command that runs or has run."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None
        self._stderr = stderr
        self._ended = threading.Event()

    def ended(self, code: int) -> None:
        """Learn its exit code; minus the signal's number if one killed it."""
        self.returncode = code
        self._ended.set()

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def communicate(self, sent: bytes = b"") -> bytes:
        """Let it read this, and read what it prints until it has ended."""
        with contextlib.suppress(BrokenPipeError), self.stdin:
            self.stdin.write(sent)
        printed = self.stdout.read()
        self.wait()
        return printed

    def said(self) -> bytes:
        """What is on stderr by now."""
        return os.pread(self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0)

    def close(self) -> None:
        """End it if it runs, and let go of everything."""
        self.send_signal(signal.SIGKILL)
        self.wait()
        for file in (self.stdin, self.stdout, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                file.close()


class _Forker:
    """The process that has done the imports."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _FORKER, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self._started: Queue[Process] = Queue()
        self._starting: Queue[tuple[IO[bytes], IO[bytes], IO[bytes]]] = Queue()
        self._listener = threading.Thread(target=self._listen, name="forker", daemon=True)
        self._listener.start()

    def command(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Fork one."""
        reads, stdin = os.pipe()
        stdout, writes = os.pipe()
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._starting.put((os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"), stderr))
        told = json.dumps([arguments, environment]).encode()
        socket.send_fds(self._control, [told], [reads, writes, stderr.fileno()])
        os.close(reads)
        os.close(writes)
        return self._started.get(timeout=60)

    def close(self) -> None:
        """End it, and what it has started."""
        self._control.shutdown(socket.SHUT_WR)
        self._process.wait()
        self._listener.join()
        self._control.close()

    def _listen(self) -> None:
        running: dict[int, Process] = {}
        while told := self._control.recv(_PACKET):
            pid, code = json.loads(told)
            if code is None:
                running[pid] = Process(pid, *self._starting.get())
                self._started.put(running[pid])
            else:
                running.pop(pid).ended(code)


_forkers: list[_Forker] = []


def command(*arguments: str, **environment: str) -> Process:
    """Run `composerd` with these arguments and nothing else in its environment."""
    if not _forkers:
        _forkers.append(_Forker())
    return _forkers[0].command(arguments, environment)


def close() -> None:
    """Let go of the process that others were forked from."""
    while _forkers:
        _forkers.pop().close()
