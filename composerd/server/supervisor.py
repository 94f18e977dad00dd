"""`composerd serve`, in one process, or in several that a supervisor starts, restarts when they die, and signals.

Each of the processes is a server like any other on a storage that servers share. On TCP each has a listening socket of
its own on the same address. The kernel spreads connections over these sockets, and stops using that of a process that
has died. The supervisor itself only keeps the address bound.
"""

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

from composerd.driver.registry import open_driver
from composerd.driver.url import EXPOSED
from composerd.errors import ComposerdError, StorageFull, StorageInUse
from composerd.server import serve
from composerd.server.announcing import announce, serving
from composerd.server.logs import configure
from composerd.server.processes import ServerProcess, SupervisorPipe
from composerd.server.sockets import ListenError, close_sockets, duplicate, open_sockets
from composerd.server.unix_sockets import UnixSocketAccess
from composerd.settings import Settings, SettingsError
from composerd_protocol.escaping import escaped, without_bearer_tokens
from composerd_protocol.journald import error_for_stderr
from composerd_protocol.service_manager import ServiceManager

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
    manager = ServiceManager.of()
    try:
        if settings.processes == 1:
            return serve.serve(settings, manager)
        return Supervisor(settings, manager).run()
    except (ListenError, SettingsError, ComposerdError) as exc:
        return _report_error(exc)


def _report_error(error: Exception) -> int:
    """Print why a start has failed, and return the exit code.

    It is 1 if the same start may succeed later, and 2 if somebody has to correct something before.
    """
    print(error_for_stderr(f"composerd: {without_bearer_tokens(escaped(str(error)))}"), file=sys.stderr)  # noqa: T201
    cause = error.__cause__
    may_pass = isinstance(cause, OSError) and cause.errno in _MAY_PASS
    return 1 if may_pass or isinstance(error, (StorageInUse, StorageFull)) else 2


class Supervisor:
    """Runs several server processes for the same settings.

    It opens no storage and serves no request: it only binds the addresses, and starts, restarts, signals and stops the
    processes.
    """

    def __init__(self, settings: Settings, manager: ServiceManager) -> None:
        """Raise `SettingsError` if servers cannot share the storage, and what opening the storage URL raises."""
        if not open_driver(settings.storage).capabilities.shared:
            raise SettingsError(
                f"processes is {settings.processes}, but only one process can use this storage: choose one that "
                "servers can share (`composerd drivers` lists them), or set --processes 1"
            )
        self._settings = settings
        self._manager = manager
        self._alive_at = NEVER if manager.sign_of_life_every is None else 0.0
        """Time of the next sign of life for the service manager, by the monotonic clock."""
        self._processes = [ServerProcess(number) for number in range(settings.processes)]
        self._selector = selectors.DefaultSelector()
        self._sockets: Sequence[socket.socket] = ()
        self._started = False
        """True once all processes have been ready."""
        self._reloads = False
        """True from a SIGHUP until every process has reloaded."""
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
        self._sockets = open_sockets(self._settings.listen, access, local_only=self._settings.local_only)
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
                elif key.data.reports == key.fileobj:
                    self._read_reports(key.data)
            self._handle_signals()
            self._give_sign_of_life()
            if time.monotonic() > self._kill_at:
                log.error("killing the processes that have not stopped in time")
                self._kill_at += KILL_AFTER
                self._signal_all(signal.SIGKILL)
        return self._exit_code

    def _receive_signal(self, number: int, _frame: FrameType | None) -> None:
        self._pending_signals.append(number)

    def _living(self) -> list[ServerProcess]:
        return [process for process in self._processes if process.pid]

    def _next_due(self) -> float:
        """Return when something has to be done even if nothing happens before, by the monotonic clock."""
        if self._exit_code is not None:
            return min(self._kill_at, self._alive_at)
        return min(self._alive_at, *(process.start_at for process in self._to_start()), NEVER)

    def _to_start(self) -> list[ServerProcess]:
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

    def _start(self, process: ServerProcess) -> None:
        try:
            reports, report_pipe = os.pipe()
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
                os.close(reports)
                self._become(process, sockets, report_pipe, old_mask)
        except OSError as exc:
            log.error("cannot start process %d: %s", process.number, exc)  # noqa: TRY400  # needs no traceback
            os.close(reports)
            self._schedule_restart(process)
        else:
            process.reports = reports
            process.reported_at = time.monotonic()
            self._selector.register(reports, selectors.EVENT_READ, process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
            os.close(report_pipe)
            close_sockets(sockets)
        process.started_at = time.monotonic()
        process.ready = process.reloads = False

    def _become(
        self, process: ServerProcess, sockets: Sequence[socket.socket], report_pipe: int, signal_mask: Iterable[int]
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
                if other is not process and other.reports >= 0:
                    os.close(other.reports)
            self._manager.close()
            configure(self._settings.log_level, self._settings.log_format, process.number)
            share = serve.ProcessShare(
                number=process.number,
                sockets=sockets,
                supervisor_alive=self._alive_pipe[0],
            )
            supervisor = SupervisorPipe(report_pipe, self._manager.sign_of_life_every)
            exit_code = serve.serve(self._settings, supervisor, share)
        except (ListenError, SettingsError, ComposerdError) as exc:
            exit_code = _report_error(exc)
        except BaseException:
            log.exception("process %d failed with an unexpected exception", process.number)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)

    def _read_reports(self, process: ServerProcess) -> None:
        """Read from a process that it is ready, has reloaded or is alive, or nothing if it has died."""
        if not process.read_reports():
            self._close_reports(process)
        if not self._started and all(process.ready for process in self._processes):
            self._started = True
            announce(self._sockets, self._settings)
            self._manager.ready(self._status())
        self._end_reload()

    def _close_reports(self, process: ServerProcess) -> None:
        if process.reports >= 0:
            self._selector.unregister(process.reports)
            os.close(process.reports)
            process.reports = -1

    def _status(self) -> str:
        return f"{serving(self._sockets, self._settings)}, with {len(self._processes)} processes"

    def _reload(self) -> None:
        if self._started:
            self._manager.reloading()
            self._reloads = True
        for process in self._living():
            process.reloads = process.ready
            os.kill(process.pid, signal.SIGHUP)
        self._end_reload()

    def _end_reload(self) -> None:
        """Tell the service manager that every process has reloaded, once that is so."""
        if self._reloads and not any(process.reloads for process in self._living()):
            self._reloads = False
            self._manager.ready(self._status())

    def _give_sign_of_life(self) -> None:
        """Give a sign of life if it is due and every process has given its own in time."""
        every = self._manager.sign_of_life_every
        if every is None or time.monotonic() < self._alive_at:
            return
        self._alive_at = time.monotonic() + every
        if all(process.answers(2 * every) for process in self._processes):
            self._manager.alive()

    def _handle_signals(self) -> None:
        while self._pending_signals:
            number = self._pending_signals.pop(0)
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._reload()
            elif self._exit_code is None:
                self._stop(0)

    def _reap(self) -> None:
        for process in self._living():
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                process.pid = 0
                self._close_reports(process)
                self._handle_end(process, os.waitstatus_to_exitcode(status))
                self._end_reload()

    def _handle_end(self, process: ServerProcess, code: int) -> None:
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

    def _schedule_restart(self, process: ServerProcess) -> None:
        now = time.monotonic()
        process.failures = 0 if now - process.started_at > STABLE_AFTER else process.failures + 1
        process.start_at = now + min(RESTART_AFTER * 2 ** min(process.failures, 10), RESTART_AFTER_AT_MOST)

    def _stop(self, code: int) -> None:
        self._exit_code = code
        self._reloads = False
        self._manager.stopping("stopping", self._settings.drain_timeout + 2 * KILL_AFTER)
        self._kill_at = time.monotonic() + self._settings.drain_timeout + KILL_AFTER
        close_sockets(self._sockets)  # new connections are refused from now on
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._living():
            os.kill(process.pid, number)
