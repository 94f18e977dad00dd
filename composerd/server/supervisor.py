"""`composerd serve`, in one process or in several that one supervises: it starts them, starts again what dies, and hands signals on.

Each of them is a server like any other on a storage that servers share. For TCP each has a listening socket of its own on
the same address, among which the kernel spreads connections; of one that has died it knows at once. The supervisor only
keeps the address.
"""

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from types import FrameType

import msgspec

from composerd.driver.registry import open_driver
from composerd.errors import ComposerdError
from composerd.server import serve
from composerd.server.logs import configure
from composerd.server.sockets import ListenError, announce, another, close_sockets, open_sockets
from composerd.settings import Settings, SettingsError

log = logging.getLogger(__name__)

AGAIN = 0.1
"""How long until a process that died is started again, in seconds; twice as long each time that it does not live for long."""

AGAIN_AT_MOST = 10.0

LONG = 60.0
"""How long a process lives that has not failed to start, in seconds."""

KILLED_AFTER = 5.0
"""How long after the drain timeout a process that has not ended is killed, in seconds."""

NEVER = float("inf")

_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. What stops the start is said in one sentence on stderr."""
    configure(settings.log_level, settings.log_format)
    try:
        if settings.processes == 1:
            return serve.serve(settings)
        return Supervisor(settings).run()
    except (ListenError, SettingsError, ComposerdError) as exc:
        print(f"composerd: {exc}", file=sys.stderr)  # noqa: T201  # the command line's own words, not the log's
        return 2


class _Process(msgspec.Struct, eq=False):
    """One of the processes, whether it lives or is to be started again."""

    number: int
    pid: int = 0
    """0: it does not live."""
    began: float = 0.0
    ready: bool = False
    says: int = -1
    """A pipe on which it says that it is ready."""
    failures: int = 0
    due: float = 0.0
    """When it is to be started, by the monotonic clock."""


class Supervisor:
    """Several processes that serve the same."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError` if the storage is one process's own, and what opening a storage URL raises."""
        if not open_driver(settings.storage).capabilities.shared:
            raise SettingsError(
                f"processes is {settings.processes}, but the storage serves one process only: choose one that servers "
                "can share (`composerd drivers` shows which), or --processes 1"
            )
        self._settings = settings
        self._processes = [_Process(number) for number in range(settings.processes)]
        self._selector = selectors.DefaultSelector()
        self._sockets: Sequence[socket.socket] = ()
        self._started = False
        """All were ready once."""
        self._code: int | None = None
        """The exit code, once it is ending."""
        self._kill_at = NEVER
        self._told: list[int] = []
        """Signals that were heard and not yet dealt with."""
        self._lives = os.pipe()
        """The supervisor has the end that is written to: when that is closed, it has died."""

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT, or until the first start has failed; the exit code."""
        self._sockets = open_sockets(self._settings.listen)
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)
        signal.set_wakeup_fd(woken.fileno())
        for number in _HEARD:
            signal.signal(number, self._hear)
        self._selector.register(wake, selectors.EVENT_READ)
        while self._code is None or self._living():
            if self._code is None:
                self._start_due()
            due = self._due()
            for key, _ in self._selector.select(None if due == NEVER else max(due - time.monotonic(), 0.0)):
                if key.fileobj is wake:
                    wake.recv(4096)
                elif key.data.says == key.fileobj:
                    self._hear_ready(key.data)
            self._deal_with_signals()
            if time.monotonic() > self._kill_at:
                log.error("the processes that still run are killed")
                self._kill_at += KILLED_AFTER
                self._tell(signal.SIGKILL)
        return self._code

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self._told.append(number)

    def _living(self) -> list[_Process]:
        return [process for process in self._processes if process.pid]

    def _due(self) -> float:
        """When something has to be done, by the monotonic clock, if nothing is heard before."""
        if self._code is not None:
            return self._kill_at
        return min((process.due for process in self._next()), default=NEVER)

    def _next(self) -> list[_Process]:
        """Those to be started. At first one goes ahead: what stops it would stop all, and is said once."""
        first = self._processes[0]
        if not (self._started or first.ready):
            return [] if first.pid else [first]
        return [process for process in self._processes if not process.pid]

    def _start_due(self) -> None:
        for process in self._next():
            if process.due <= time.monotonic():
                self._start(process)

    def _start(self, process: _Process) -> None:
        says, said = os.pipe()
        sockets: list[socket.socket] = []
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            sockets.extend(another(listening) for listening in self._sockets)
            process.pid = os.fork()
            if not process.pid:
                os.close(says)
                self._serve(process, sockets, said, before)
        except OSError as exc:
            log.error("process %d cannot be started: %s", process.number, exc)  # noqa: TRY400  # a sentence
            os.close(says)
            self._put_off(process)
        else:
            process.says = says
            self._selector.register(says, selectors.EVENT_READ, process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(said)
            close_sockets(sockets)
        process.began = time.monotonic()
        process.ready = False

    def _serve(self, process: _Process, sockets: Sequence[socket.socket], said: int, mask: Iterable[int]) -> None:
        """Be one of the processes: this does not return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HEARD:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is heard: what it would read anew is not read yet
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._selector.close()
            os.close(self._lives[1])
            for other in self._living():
                if other is not process and other.says >= 0:
                    os.close(other.says)
            configure(self._settings.log_level, self._settings.log_format, process.number)
            share = serve.Share(process.number, sockets, self._lives[0], lambda: _say(said))
            code = serve.serve(self._settings, share)
        except (ListenError, SettingsError, ComposerdError) as exc:
            code = 2
            print(f"composerd: {exc}", file=sys.stderr)  # noqa: T201
        except BaseException:
            log.exception("process %d failed", process.number)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _hear_ready(self, process: _Process) -> None:
        """Something is on its pipe: that it listens, or, by nothing, that it has died."""
        process.ready = bool(os.read(process.says, 1))
        self._let_go(process)
        if not self._started and all(process.ready for process in self._processes):
            self._started = True
            announce(self._sockets, tls=self._settings.tls_cert is not None)

    def _let_go(self, process: _Process) -> None:
        """Close its pipe."""
        if process.says >= 0:
            self._selector.unregister(process.says)
            os.close(process.says)
            process.says = -1

    def _deal_with_signals(self) -> None:
        while self._told:
            number = self._told.pop(0)
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._tell(signal.SIGHUP)
            elif self._code is None:
                self._end(0)

    def _reap(self) -> None:
        for process in self._living():
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                process.pid = 0
                self._let_go(process)
                self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: _Process, code: int) -> None:
        if self._code is not None:
            return
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self._started:
            self._put_off(process)
            again = process.due - time.monotonic()
            log.error("process %d has ended with %s; it is started again in %.1f s", process.number, how, again)
        else:
            log.error("process %d has ended with %s before it served", process.number, how)
            self._end(max(code, 1))

    def _put_off(self, process: _Process) -> None:
        now = time.monotonic()
        process.failures = 0 if now - process.began > LONG else process.failures + 1
        process.due = now + min(AGAIN * 2 ** min(process.failures, 10), AGAIN_AT_MOST)

    def _end(self, code: int) -> None:
        self._code = code
        self._kill_at = time.monotonic() + self._settings.drain_timeout + KILLED_AFTER
        close_sockets(self._sockets)  # who connects from now on is refused
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for process in self._living():
            os.kill(process.pid, number)


def _say(said: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the supervisor has died, and we are about to hear of it
        os.write(said, b"!")
    os.close(said)
