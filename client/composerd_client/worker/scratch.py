"""Scratch directories of jobs, locked while they are in use, and the removal of those that killed workers have left."""

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

from composerd_client.worker.cgroups import remove_left_cgroups

log = logging.getLogger(__name__)

PREFIX = "composerd-scratch-"
"""The beginning of the names of scratch directories."""

MOST_REMOVED = 1000
"""Number of left directories that a worker removes at its start."""

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags for opening a directory that is not a link."""


class Scratch:
    """A new directory, with a lock that lasts until it is closed or its process ends. Its methods block.

    The lock belongs to the directory itself, so that a command cannot lose it, and a process that inherits the
    descriptor keeps it.
    """

    def __init__(self) -> None:
        """Create the directory. Raises `OSError`."""
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=scratch_parent()))
            try:
                self.descriptor = os.open(self.path, DIRECTORY)
            except OSError:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
                raise
            if _lock(self.descriptor) is not False and _is_at(self.descriptor, self.path):
                break
            os.close(self.descriptor)  # another worker took it for one that was left

    def close(self) -> None:
        """Remove the directory with everything in it."""
        remove_tree(self.path)
        os.close(self.descriptor)


def scratch_parent() -> str:
    """Return the directory in which scratch directories are made. Raises `OSError` if there is none.

    That is `TMPDIR` if it is set, also while nothing can be written there: its user has chosen it for its space.
    """
    return os.path.abspath(os.environ.get("TMPDIR") or tempfile.gettempdir())  # noqa: PTH100


def described(error: OSError) -> str:
    """Return a sentence that says why no scratch directory can be used."""
    where = os.environ.get("TMPDIR") or tempfile.tempdir or "TMPDIR"
    return f"no scratch directory can be used in {where}: {error.strerror or error}"


def try_scratch() -> None:
    """Make a scratch directory with a file in it, and remove it. Raises `OSError` if that is not possible now."""
    scratch = Scratch()
    try:
        (scratch.path / "file").write_bytes(b"x")
    finally:
        scratch.close()


def remove_tree(path: Path) -> None:
    """Remove a directory with everything in it, also what is in directories without permission to write."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        with contextlib.suppress(OSError):
            for _, _, _, descriptor in os.fwalk(path, follow_symlinks=False):
                with contextlib.suppress(OSError):
                    os.fchmod(descriptor, stat.S_IRWXU)
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers() -> threading.Thread:
    """Begin to remove what killed workers of this user have left: scratch directories, and processes in cgroups.

    Return the thread that does it, which does not keep the program from ending.
    """
    thread = threading.Thread(target=_remove_leftovers, name="leftovers of killed workers", daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        log.warning("cannot look for scratch directories that killed workers have left: %s", exc)
    return thread


def _remove_leftovers() -> None:
    remove_left_cgroups()
    removed = 0
    try:
        with os.scandir(scratch_parent()) as entries:
            for entry in entries:
                if entry.name.startswith(PREFIX) and _remove_if_left(Path(entry.path)):
                    removed += 1
                    if removed == MOST_REMOVED:
                        break
    except OSError as exc:
        log.warning("cannot look for scratch directories that killed workers have left: %s", exc)
    if removed:
        log.info("removed what killed workers have left: %d scratch directories", removed)


def _remove_if_left(path: Path) -> bool:
    """Remove a directory if it is this user's and no process has its lock; return True if it is gone."""
    try:
        descriptor = os.open(path, DIRECTORY)
    except OSError:
        return False
    try:
        if os.fstat(descriptor).st_uid != os.geteuid() or not _lock(descriptor) or not _is_at(descriptor, path):
            return False
        remove_tree(path)
        return not path.exists()
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock a directory. Return False if another process has the lock, and None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
