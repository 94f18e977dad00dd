"""Files that a download creates: under a checked name, in one directory, and whole or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from composerd_client.errors import UnsafeName
from composerd_protocol.file_names import problem_with

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""Errors of file systems that have no hard links."""


def checked(name: str) -> str:
    """Return a name that the server has sent. Raises `UnsafeName` unless it is the name of a file in any directory."""
    problem = problem_with(name)
    if problem is not None:
        raise UnsafeName(f"the server names a file {name[:100]!r}, but a name {problem}")
    return name


@asynccontextmanager
async def new_file(directory: Path, name: str, *, overwrite: bool) -> AsyncIterator[BinaryIO]:
    """Yield a file to write to, which appears in the directory under a name when the block ends.

    The directory is created if necessary. If the block raises an exception, no file is left. Raises `UnsafeName`, and
    `FileExistsError` if something has the name, unless `overwrite` is set: then a file or a symbolic link of that name
    is replaced.
    """
    checked(name)
    path = str(directory / name)
    # These calls do not run in threads: a canceled download could not wait for them, and would leave a file.
    parent = _opened(directory)
    unfinished = f".{secrets.token_hex(8)}.part"
    try:
        if not overwrite and _exists(parent, name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        try:
            with open(_create(parent, unfinished), "wb") as file:  # noqa: ASYNC230  # of a descriptor
                yield file
            _publish(parent, unfinished, name, path, overwrite=overwrite)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=parent)
    finally:
        os.close(parent)


def _opened(directory: Path) -> int:
    """Open a directory, which is created if it does not exist."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(directory, flags)
    except FileNotFoundError:
        directory.mkdir(parents=True, exist_ok=True)
        return os.open(directory, flags)


def _create(parent: int, name: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o666, dir_fd=parent)


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _publish(parent: int, unfinished: str, name: str, path: str, *, overwrite: bool) -> None:
    """Give a complete file its name."""
    try:
        if not overwrite:
            try:
                os.link(unfinished, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
                os.close(_create(parent, name))  # so that only this file is replaced
            else:
                return
        os.replace(unfinished, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc  # OSError chooses the subclass by the number
