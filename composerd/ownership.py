"""Trust in directories and files: another user must neither own them nor be able to write to them.

Whoever can write to a storage can read its jobs, take over its attempts, and lead the server to other files by links.
"""

import errno
import os
import pwd
import stat
from pathlib import Path

_MOST_LINKS = 40
"""Number of symbolic links, each leading to the next, from which on they are taken for a loop, as the kernel does."""

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotTrusted(PermissionError):
    """A directory or a file may have been made or changed by another user; `sentence` says so to operators."""

    def __init__(self, path: str | Path, sentence: str) -> None:
        super().__init__(errno.EPERM, sentence, str(path))
        self.sentence = sentence


def open_directory(path: Path) -> int:
    """Open a directory that must be this user's, and return its descriptor. Raises `NotTrusted`, `OSError`.

    If the path is a symbolic link, it is followed if root or this user has made it: another user can make one in a
    shared directory.
    """
    descriptor = os.open(_followed(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        check(os.fstat(descriptor), path)
    except NotTrusted:
        os.close(descriptor)
        raise
    return descriptor


def _followed(path: Path) -> Path:
    for _ in range(_MOST_LINKS):
        try:
            found = path.lstat()
        except FileNotFoundError:
            return path
        if not stat.S_ISLNK(found.st_mode):
            return path
        if found.st_uid not in (0, os.geteuid()):
            raise NotTrusted(
                path,
                f"{path} is a symbolic link that belongs to {_name(found.st_uid)}, who could let it lead elsewhere: "
                "remove it, or name the directory that it leads to",
            )
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def check(found: os.stat_result, path: str | Path) -> None:
    """Raise `NotTrusted` if a directory or a file is not this user's, or if others can write to it."""
    me = os.geteuid()
    if found.st_uid != me:
        raise NotTrusted(
            path,
            f"{path} belongs to {_name(found.st_uid)}, who could change what is in it: run composerd as that user, or "
            f"if nobody has tampered with it, give it to this one with `chown -R {_name(me)} {path}`",
        )
    if found.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise NotTrusted(
            path,
            f"{path} can be written to by other users (mode {mode:04o}): if nobody has tampered with it, forbid that "
            f"with `chmod go-w {path}`",
        )


def check_trusted(found: os.stat_result, *, any_owner: bool = False) -> None:
    """Raise `ValueError` if a file of the operator's can be changed by others, or belongs to somebody else.

    It may belong to root and to this process's user, and with `any_owner` to everybody.
    """
    if not any_owner and found.st_uid not in (0, os.geteuid()):
        raise ValueError(
            "it belongs to another user, who could change it: give it with `chown` to root or to the user of composerd"
        )
    if found.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise ValueError(f"other users can write to it (mode {mode:04o}): forbid that with `chmod go-w`")


def _name(user: int) -> str:
    """Return the name of a user, or its number if it has no name."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
