"""Finds out whether the files of an open journal are still those that the next start would read."""

import errno
import os

from composerd.directory import Directory
from composerd.file_errors import is_exhausted
from composerd_fs.journal.lock import DirectoryLock


def why_lost(descriptor: int, directory: Directory, lock: DirectoryLock) -> str | None:
    """Return why the next start would read other files than this open one and its directory; None if it would not.

    Raises `OSError` if that cannot be found out now, but perhaps later.
    """
    try:
        if os.fstat(descriptor).st_nlink == 0:
            return "the file that is written to was removed"
        if not directory.is_at_its_path():
            return "the path names nothing, another directory or another file system"
        return lock.lost()
    except OSError as exc:
        if is_exhausted(exc):
            raise
        return f"that could not be found out: {reason(exc)}"


def reason(error: OSError) -> str:
    """Return the text of an error of the operating system."""
    return os.strerror(error.errno or errno.EIO)
