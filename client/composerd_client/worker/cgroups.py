"""A cgroup (version 2) for each command, where this process may make one: it ends processes that nothing else can end.

The guardian uses it, so it imports only what starts fast, and nothing of this package.
"""

import errno
import fcntl
import os
import time

PREFIX = "composerd-command-"
"""The beginning of the names of the cgroups."""

_EMPTY_WITHIN = 2.0
"""Seconds that the processes of a cgroup may take to end once they were killed."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Cgroup:
    """A new cgroup, or none: then nothing is done. Use it as a context manager, at whose end it is removed.

    It has a lock until then, which also ends with this process.
    """

    def __init__(self, path: str | None, descriptor: int = -1) -> None:
        self._path = path
        self._descriptor = descriptor

    def __enter__(self) -> "Cgroup":  # noqa: PYI034  # typing takes long to import
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            _remove(self._path)
            os.close(self._descriptor)

    def enter(self) -> None:
        """Move this process into the cgroup, if that is allowed."""
        if self._path is not None:
            _write(f"{self._path}/cgroup.procs", "0")

    def kill(self) -> None:
        """Kill all processes in the cgroup, whatever user they run as."""
        if self._path is not None:
            _write(f"{self._path}/cgroup.kill", "1")


def new_cgroup() -> Cgroup:
    """Create a cgroup below that of this process, if that is possible."""
    parent = own_cgroup()
    if parent is None:
        return Cgroup(None)
    path = f"{parent}/{PREFIX}{os.getpid()}"
    try:
        os.mkdir(path)  # noqa: PTH102  # pathlib takes long to import, here and below
        descriptor = os.open(path, _DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return Cgroup(None)
    return Cgroup(path, descriptor)


def own_cgroup() -> str | None:
    """Return the directory of this process's cgroup, if cgroups may be made in it.

    systemd says with an extended attribute that it leaves a cgroup to its service; others are not touched.
    """
    try:
        with open("/proc/self/cgroup") as file:  # noqa: PTH123
            path = next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
        with open("/proc/self/mountinfo") as file:  # noqa: PTH123
            mounts = [line.split() for line in file if " - cgroup2 " in line]
        root, at = mounts[0][3], mounts[0][4]
    except (OSError, StopIteration, IndexError):
        return None
    if ".." in path or not f"{path}/".startswith(root.rstrip("/") + "/"):
        return None
    directory = (at + path[len(root.rstrip("/")) :]).rstrip("/")
    if path.endswith((".service", ".scope")) and not _is_delegated(directory):
        return None
    return directory if os.access(f"{directory}/cgroup.procs", os.W_OK) else None


def remove_left_cgroups() -> None:
    """End the processes of commands whose worker and guardian were killed, as far as they are in a cgroup."""
    parent = own_cgroup()
    if parent is None:
        return
    try:
        left = [entry.path for entry in os.scandir(parent) if entry.name.startswith(PREFIX)]
    except OSError:
        return
    for path in left:
        try:
            descriptor = os.open(path, _DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _is_delegated(directory: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _remove(path: str) -> None:
    _write(f"{path}/cgroup.kill", "1")
    give_up_at = time.monotonic() + _EMPTY_WITHIN
    while time.monotonic() < give_up_at:
        try:
            for directory, _, _ in os.walk(path, topdown=False):  # a command may have made cgroups below its own
                os.rmdir(directory)  # noqa: PTH106
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                return
            time.sleep(0.01)
        else:
            return


def _write(path: str, text: str) -> None:
    """Write into a file of the kernel; an old kernel has no `cgroup.kill`, and may not allow to enter a cgroup."""
    try:
        with open(path, "w") as file:  # noqa: PTH123
            file.write(text)
    except OSError:
        pass
