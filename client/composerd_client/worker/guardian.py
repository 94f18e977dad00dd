"""The program between a worker and a command: it runs the command, and ends everything that the command has started.

It is a process of its own, so that it can do so after the worker was killed. Each process of the command whose parent
has ended becomes a child of this one (it is their subreaper), also one that has left the command's process group and
session. It imports only what starts fast, and nothing of this package: `processes.py` starts it.
"""

import errno
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes long to import
    import signal
    from collections.abc import Callable

    from composerd_client.worker.cgroups import Cgroup
else:
    import _signal as signal  # `signal` makes enumerations of it, for a third of the time that all of this takes

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_KILL_WITHIN = 5.0
"""Seconds for which it sends SIGKILL again and again to what has not ended: more processes may have been started."""

_ROUND = 0.2
"""Seconds between two looks at the processes that are left."""

_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that a service manager sends to all processes at once. This one ends after those that it guards."""

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def main(
    control: int, lock: int, scratch: str, grace: float, command: list[str], new_cgroup: "Callable[[], Cgroup]"
) -> None:
    """Run a command, and return once it has ended with everything that it has started.

    `control` is a socket to the worker. This process writes a line there when the command has started (`started`) or
    cannot be (`failed ERRNO`), and when it has ended (`exited STATUS`). When the worker shuts the socket down for
    writing, or ends, all processes get SIGTERM, and after `grace` seconds SIGKILL. If the worker has ended, the
    directory `scratch` is removed, unless that is empty. `lock` is the descriptor of its lock, or -1.
    """
    prctl = _prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for descriptor in (control, lock):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    ignored = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    defaults = [number for number, before in ignored.items() if before != signal.SIG_IGN]
    with new_cgroup() as cgroup:
        pid, failure = _start(command, cgroup, prctl, [*defaults, *_IGNORED_BY_PYTHON])
        if failure:
            _tell(control, f"failed {failure}")
            return
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        _tell(control, "started")
        _guard(control, woken, pid, cgroup, grace)
    if not _tell(control, "ended") and scratch:
        import shutil  # noqa: PLC0415  # takes longer to import than everything else together

        shutil.rmtree(scratch, ignore_errors=True)


def _prctl() -> "Callable[..., object]":
    """Return the system call. It does nothing if this Python cannot call it: then daemons of the command stay."""
    try:
        import ctypes  # noqa: PLC0415  # some builds of Python have none

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError, MemoryError):
        return lambda *_: None


def _start(
    command: list[str], cgroup: "Cgroup", prctl: "Callable[..., object]", defaults: "list[signal.Signals]"
) -> tuple[int, int]:
    """Start the command, and return its process id and 0, or the number of the error."""
    guardian = os.getpid()
    reads, writes = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError as exc:
        return 0, exc.errno or errno.EAGAIN
    if not pid:
        try:
            os.setsid()
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            cgroup.enter()
            for number in defaults:
                signal.signal(number, signal.SIG_DFL)
            if os.getppid() == guardian:
                os.execv(command[0], command)  # noqa: S606  # no shell is wanted
        except OSError as exc:
            os.write(writes, str(exc.errno).encode())
        finally:
            os._exit(127)
    os.close(writes)
    failed = os.read(reads, 16)
    os.close(reads)
    if failed:
        os.waitpid(pid, 0)
    return pid, int(failed or b"0")


def _guard(control: int, woken: int, command: int, cgroup: "Cgroup", grace: float) -> None:
    """Wait until no process is left; once the worker wants it or has ended, end those that are left."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    running = {command}
    """The command until it was waited for."""
    told: set[int] = set()
    """Processes that have got SIGTERM."""
    kill_at = float("inf")
    while _reap(control, running, told):
        for descriptor, _ in poll.poll(_ROUND * 1000 if kill_at < float("inf") else None):
            if descriptor == woken:
                os.read(woken, 512)
            elif not _read(control):
                poll.unregister(control)
                kill_at = time.monotonic() + grace
                told |= _signal_group(command, running, signal.SIGTERM)
        now = time.monotonic()
        if now > kill_at + _KILL_WITHIN:
            return  # they belong to another user, or wait for a device that does not answer
        if now >= kill_at:
            cgroup.kill()
            _signal_group(command, running, signal.SIGKILL)
            for pid in _children():
                _send(os.kill, pid, signal.SIGKILL)
        elif kill_at < float("inf"):
            for pid in _children() - told:
                told.add(pid)
                _send(os.kill, pid, signal.SIGTERM)


def _reap(control: int, running: set[int], told: set[int]) -> bool:
    """Collect the children that have ended, and return False if none is left."""
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return True
            if pid in running:
                running.remove(pid)
                _tell(control, f"exited {os.waitstatus_to_exitcode(status)}")
            told.discard(pid)
    except ChildProcessError:
        return False


def _signal_group(command: int, running: set[int], number: "signal.Signals") -> set[int]:
    """Send a signal to the command's process group if it still exists, and return those of the children that got it."""
    children = {pid for pid in _children() if _group(pid) == command}
    if running or children:  # otherwise another process may have taken the id
        _send(os.killpg, command, number)
    return children


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _children() -> set[int]:
    """Return the ids of this process's children.

    Only children get signals, because no other process takes the id of a child before it was waited for. Their own
    children become this process's when they end.
    """
    own = str(os.getpid()).encode()
    found = set()
    for name in os.listdir("/proc"):  # noqa: PTH208  # pathlib takes long to import
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    stat = file.read()
            except OSError:
                continue
            if stat.rpartition(b")")[2].split()[1] == own:
                found.add(int(name))
    return found


def _send(send: "Callable[[int, int], None]", pid: int, number: "signal.Signals") -> None:
    try:  # noqa: SIM105  # contextlib takes long to import
        send(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _read(control: int) -> bytes:
    try:
        return os.read(control, 512)
    except ConnectionError:
        return b""


def _tell(control: int, line: str) -> bool:
    """Write a line to the worker, and return False if the worker has ended."""
    try:
        os.write(control, line.encode() + b"\n")
    except ConnectionError:
        return False
    return True


def run(new_cgroup: "Callable[[], Cgroup]") -> None:
    """Run what the arguments of this process say, in a cgroup of its own."""
    control, lock, scratch, grace, *command = sys.argv[1:]
    main(int(control), int(lock), scratch, float(grace), command, new_cgroup)
    os._exit(0)  # freeing everything takes longer
