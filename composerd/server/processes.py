"""The supervisor's knowledge about each of several server processes, and the reports of such a process to it."""

import contextlib
import os
import time

import msgspec

_READY = b"!"
_ALIVE = b"."


class SupervisorPipe:
    """The way from a server process to its supervisor, used like a `ServiceManager`."""

    def __init__(self, pipe: int, sign_of_life_every: float | None) -> None:
        """Report at the end of a pipe to write to; nothing is sent once the supervisor has died."""
        self._pipe = pipe
        self.sign_of_life_every = sign_of_life_every
        """Interval in seconds at which `alive` has to be called; None if it need not be."""
        os.set_blocking(pipe, False)

    def starting(self, _status: str, _within: float) -> None:
        """Do nothing: storages that processes share start fast, or after the process is ready."""

    def ready(self, _status: str) -> None:
        """Tell that the process listens, or has ended a reload."""
        self._report(_READY)

    def status(self, _status: str) -> None:
        """Do nothing: the supervisor has a status of its own."""

    def reloading(self) -> None:
        """Do nothing: the supervisor has told that already."""

    def stopping(self, _status: str, _within: float) -> None:
        """Do nothing: the supervisor has told that already."""

    def alive(self) -> None:
        """Give a sign of life."""
        self._report(_ALIVE)

    def _report(self, report: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, BlockingIOError):  # the process is about to notice a dead supervisor
            os.write(self._pipe, report)


class ServerProcess(msgspec.Struct, eq=False):
    """One of the server processes, whether it is alive or waits to be started."""

    number: int
    pid: int = 0
    """The process id; 0 while the process is not alive."""
    started_at: float = 0.0
    """Time of its latest start, by the monotonic clock."""
    ready: bool = False
    reloads: bool = False
    """True from the moment at which it was told to reload, until it has done that."""
    reports: int = -1
    """The end of a pipe to read from; the process writes its reports to the other end. -1 when it is closed."""
    reported_at: float = 0.0
    """Time of its latest report or start, by the monotonic clock."""
    failures: int = 0
    """The number of its failures in a row."""
    start_at: float = 0.0
    """Time of its next start, by the monotonic clock."""

    def read_reports(self) -> bool:
        """Read what the process has reported. Return False if it has closed the pipe, as it does when it dies."""
        reports = os.read(self.reports, 4096)
        if reports:
            self.reported_at = time.monotonic()
        if _READY in reports:
            self.ready = True
            self.reloads = False
        return bool(reports)

    def answers(self, within: float) -> bool:
        """Return False if the process is alive and has reported nothing for so many seconds."""
        return not self.pid or time.monotonic() - self.reported_at <= within
