"""Commands as processes, forked from one that has already imported composerd.

Live tests start hundreds of commands, and most of the time that a new interpreter takes goes into imports.
"""

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
import atexit, json, os, select, signal, socket, sys, threading, traceback
import click, composerd.server.supervisor, composerd_client, composerd_fs, rich.progress, rich.table

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
sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # the old ones know other files
arguments, environment = json.loads(told)
os.environ.clear()
os.environ.update(environment)
sys.argv = ["composerd", *arguments]
from composerd.cli.main import main
code = 1
try:
    main()
except SystemExit as exc:
    code = exc.code
except BaseException:
    traceback.print_exc()
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code or 0)
"""
"""The program of the process that commands are forked from.

It receives the arguments, the environment and the files of a command, forks, and reports the process id, then the exit
code.
Modules that read the environment or look at the terminal when they are imported are not imported before the fork.
A command ends as an interpreter does, except that it does not free its objects: that takes longer than most commands.
"""


class Process:
    """A command that is running or has exited."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None
        self._stderr = stderr
        self._ended = threading.Event()

    def ended(self, code: int) -> None:
        """Set the exit code: the negative number of the signal if one killed the command."""
        self.returncode = code
        self._ended.set()

    def wait(self) -> int:
        """Wait until the command has exited, and return its exit code."""
        self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, unless it has exited."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def communicate(self, sent: bytes = b"") -> bytes:
        """Send bytes to the command's stdin, wait until it has exited, and return what it wrote to stdout."""
        with contextlib.suppress(BrokenPipeError), self.stdin:
            self.stdin.write(sent)
        printed = self.stdout.read()
        self.wait()
        return printed

    def said(self) -> bytes:
        """Return what the command has written to stderr so far."""
        return os.pread(self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0)

    def close(self) -> None:
        """Kill the command if it is running, and close its pipes."""
        self.send_signal(signal.SIGKILL)
        self.wait()
        for file in (self.stdin, self.stdout, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                file.close()


class _Forker:
    """The process that commands are forked from."""

    def __init__(self, preloaded: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _FORKER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **preloaded},
            )
        self._started: Queue[Process] = Queue()
        self._starting: Queue[tuple[IO[bytes], IO[bytes], IO[bytes]]] = Queue()
        self._listener = threading.Thread(target=self._listen, name="forker", daemon=True)
        self._listener.start()

    def command(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Fork a command and return it."""
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
        """Stop the process and all commands that were forked from it."""
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


_forkers: dict[str, _Forker] = {}
"""The processes that commands are forked from, by the library that is loaded into them; usually none is."""


def command(*arguments: str, **environment: str) -> Process:
    """Start `composerd` with these arguments and this environment, to which nothing is added."""
    library = environment.get("LD_PRELOAD", "")
    if library not in _forkers:
        _forkers[library] = _Forker(environment if library else {})
    return _forkers[library].command(arguments, environment)


def close() -> None:
    """Stop the processes that commands are forked from. Does nothing if there are none."""
    while _forkers:
        _forkers.popitem()[1].close()
