"""`composerd serve`, in one process, or in several that a supervisor starts, restarts when they die, and signals.

Each of the processes is a server like any other on a storage that servers share. On TCP each has a listening socket of
its own on the same address. The kernel spreads connections over these sockets, and stops using that of a process that
has died. The supervisor itself only keeps the address bound.
"""

import contextlib
import errno
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
from composerd.driver.url import EXPOSED
from composerd.errors import ComposerdError, StorageFull, StorageInUse
from composerd.server import serve
from composerd.server.logs import configure
from composerd.server.sockets import ListenError, announce, close_sockets, duplicate, open_sockets
from composerd.server.unix_sockets import UnixSocketAccess
from composerd.settings import Settings, SettingsError
from composerd_protocol.escaping import escaped

log = logging.getLogger(__name__)

RESTART_AFTER = 0.1
"""Pause in seconds before a process that died is restarted; doubled with every failure in a row."""

RESTART_AFTER_AT_MOST = 10.0
"""The longest wait before a restart, in seconds."""

STABLE_AFTER = 60.0
"""A process that has lived for this long, in seconds, does not count as a failure when it dies."""

KILL_AFTER = 5.0
"""Time in seconds, after the drain timeout, at which a process that has not ended is killed."""

NEVER = float("inf")

_MAY_PASS = frozenset(
    {errno.EADDRINUSE, errno.EADDRNOTAVAIL, socket.EAI_AGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
)
"""Errors that may be over without anybody's doing: another process ends, or a network interface comes up."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def run(settings: Settings, *, password_shown: bool = False) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code. If the start fails, print why on stderr.

    Log a warning if a password is in the command line of this process (`password_shown`).
    """
    configure(settings.log_level, settings.log_format)
    if password_shown:
        log.warning("%s", EXPOSED)
    try:
        if settings.processes == 1:
            return serve.serve(settings)
        return Supervisor(settings).run()
    except (ListenError, SettingsError, ComposerdError) as exc:
        print(f"composerd: {escaped(str(exc))}", file=sys.stderr)  # noqa: T201  # an error of the command line
        return _exit_code(exc)


def _exit_code(error: Exception) -> int:
    """Return 1 if the same start may succeed later, and 2 if somebody has to correct something before."""
    cause = error.__cause__
    may_pass = isinstance(cause, OSError) and cause.errno in _MAY_PASS
    return 1 if may_pass or isinstance(error, (StorageInUse, StorageFull)) else 2


class _Process(msgspec.Struct, eq=False):
    """One of the server processes, whether it is alive or waits to be started."""

    number: int
    pid: int = 0
    """The process id; 0 while the process is not alive."""
    started_at: float = 0.0
    """Time of its latest start, by the monotonic clock."""
    ready: bool = False
    ready_pipe: int = -1
    """The end of a pipe to read from; the process writes to the other end when it is ready. -1 when it is closed."""
    failures: int = 0
    """The number of its failures in a row."""
    start_at: float = 0.0
    """Time of its next start, by the monotonic clock."""


class Supervisor:
    """Runs several server processes for the same settings.

    It opens no storage and serves no request: it only binds the addresses, and starts, restarts, signals and stops the
    processes.
    """

    def __init__(self, settings: Settings) -> None:
        """Raise `SettingsError` if servers cannot share the storage, and what opening the storage URL raises."""
        if not open_driver(settings.storage).capabilities.shared:
            raise SettingsError(
                f"processes is {settings.processes}, but only one process can use this storage: choose one that "
                "servers can share (`composerd drivers` lists them), or set --processes 1"
            )
        self._settings = settings
        self._processes = [_Process(number) for number in range(settings.processes)]
        self._selector = selectors.DefaultSelector()
        self._sockets: Sequence[socket.socket] = ()
        self._started = False
        """True once all processes have been ready."""
        self._exit_code: int | None = None
        """Set when the supervisor is stopping."""
        self._kill_at = NEVER
        self._pending_signals: list[int] = []
        """Signals that were received and not yet handled."""
        self._alive_pipe = os.pipe()
        """Only the supervisor has the end to write to, so the processes see at the other end when it dies."""

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT, or until the first start has failed, and return the exit code."""
        access = UnixSocketAccess(self._settings.socket_mode, self._settings.socket_group)
        self._sockets = open_sockets(self._settings.listen, access)
        wakeup, signaled = socket.socketpair()
        for end in (wakeup, signaled):
            end.setblocking(False)
        signal.set_wakeup_fd(signaled.fileno())
        for number in _SIGNALS:
            signal.signal(number, self._receive_signal)
        self._selector.register(wakeup, selectors.EVENT_READ)
        while self._exit_code is None or self._living():
            if self._exit_code is None:
                self._start_due()
            due_at = self._next_due()
            for key, _ in self._selector.select(None if due_at == NEVER else max(due_at - time.monotonic(), 0.0)):
                if key.fileobj is wakeup:
                    wakeup.recv(4096)
                elif key.data.ready_pipe == key.fileobj:
                    self._read_ready_pipe(key.data)
            self._handle_signals()
            if time.monotonic() > self._kill_at:
                log.error("killing the processes that have not stopped in time")
                self._kill_at += KILL_AFTER
                self._signal_all(signal.SIGKILL)
        return self._exit_code

    def _receive_signal(self, number: int, _frame: FrameType | None) -> None:
        self._pending_signals.append(number)

    def _living(self) -> list[_Process]:
        return [process for process in self._processes if process.pid]

    def _next_due(self) -> float:
        """Return when something has to be done even if nothing happens before, by the monotonic clock."""
        if self._exit_code is not None:
            return self._kill_at
        return min((process.start_at for process in self._to_start()), default=NEVER)

    def _to_start(self) -> list[_Process]:
        """Return the processes to start.

        At first that is only one: what keeps it from starting would stop all of them, and is reported once this way.
        """
        first = self._processes[0]
        if not (self._started or first.ready):
            return [] if first.pid else [first]
        return [process for process in self._processes if not process.pid]

    def _start_due(self) -> None:
        for process in self._to_start():
            if process.start_at <= time.monotonic():
                self._start(process)

    def _start(self, process: _Process) -> None:
        try:
            ready_pipe, report_pipe = os.pipe()
        except OSError as exc:
            log.error("cannot start process %d: %s", process.number, exc)  # noqa: TRY400  # needs no traceback
            self._schedule_restart(process)
            return
        sockets: list[socket.socket] = []
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            sockets.extend(duplicate(listening) for listening in self._sockets)
            process.pid = os.fork()
            if not process.pid:
                os.close(ready_pipe)
                self._become(process, sockets, report_pipe, old_mask)
        except OSError as exc:
            log.error("cannot start process %d: %s", process.number, exc)  # noqa: TRY400  # needs no traceback
            os.close(ready_pipe)
            self._schedule_restart(process)
        else:
            process.ready_pipe = ready_pipe
            self._selector.register(ready_pipe, selectors.EVENT_READ, process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
            os.close(report_pipe)
            close_sockets(sockets)
        process.started_at = time.monotonic()
        process.ready = False

    def _become(
        self, process: _Process, sockets: Sequence[socket.socket], report_pipe: int, signal_mask: Iterable[int]
    ) -> None:
        """Run as one of the server processes, in the child of a fork. It never returns."""
        exit_code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server handles it; it has read no files yet
            signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)
            self._selector.close()
            os.close(self._alive_pipe[1])
            for other in self._living():
                if other is not process and other.ready_pipe >= 0:
                    os.close(other.ready_pipe)
            configure(self._settings.log_level, self._settings.log_format, process.number)
            share = serve.ProcessShare(
                number=process.number,
                sockets=sockets,
                supervisor_alive=self._alive_pipe[0],
                on_ready=lambda: _report_ready(report_pipe),
            )
            exit_code = serve.serve(self._settings, share)
        except (ListenError, SettingsError, ComposerdError) as exc:
            exit_code = _exit_code(exc)
            print(f"composerd: {escaped(str(exc))}", file=sys.stderr)  # noqa: T201
        except BaseException:
            log.exception("process %d failed with an unexpected exception", process.number)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)

    def _read_ready_pipe(self, process: _Process) -> None:
        """Read from a process that it is ready, or nothing if it has died."""
        process.ready = bool(os.read(process.ready_pipe, 1))
        self._close_ready_pipe(process)
        if not self._started and all(process.ready for process in self._processes):
            self._started = True
            announce(self._sockets, tls=self._settings.tls_cert is not None)

    def _close_ready_pipe(self, process: _Process) -> None:
        if process.ready_pipe >= 0:
            self._selector.unregister(process.ready_pipe)
            os.close(process.ready_pipe)
            process.ready_pipe = -1

    def _handle_signals(self) -> None:
        while self._pending_signals:
            number = self._pending_signals.pop(0)
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._signal_all(signal.SIGHUP)
            elif self._exit_code is None:
                self._stop(0)

    def _reap(self) -> None:
        for process in self._living():
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                process.pid = 0
                self._close_ready_pipe(process)
                self._handle_end(process, os.waitstatus_to_exitcode(status))

    def _handle_end(self, process: _Process, code: int) -> None:
        """Restart a process that has ended, or stop all of them if not all have been ready once."""
        if self._exit_code is not None:
            return
        cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self._started:
            self._schedule_restart(process)
            delay = process.start_at - time.monotonic()
            log.error("process %d ended with %s; restarting it in %.1f s", process.number, cause, delay)
        else:
            log.error("process %d ended with %s before it was ready", process.number, cause)
            self._stop(max(code, 1))

    def _schedule_restart(self, process: _Process) -> None:
        now = time.monotonic()
        process.failures = 0 if now - process.started_at > STABLE_AFTER else process.failures + 1
        process.start_at = now + min(RESTART_AFTER * 2 ** min(process.failures, 10), RESTART_AFTER_AT_MOST)

    def _stop(self, code: int) -> None:
        self._exit_code = code
        self._kill_at = time.monotonic() + self._settings.drain_timeout + KILL_AFTER
        close_sockets(self._sockets)  # new connections are refused from now on
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._living():
            os.kill(process.pid, number)


def _report_ready(pipe: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the supervisor has died, which this process is about to notice
        os.write(pipe, b"!")
    os.close(pipe)
