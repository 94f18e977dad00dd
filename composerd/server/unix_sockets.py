"""Unix sockets that the server listens on: their files, which have a mode and a group, and are removed at the end."""

import contextlib
import errno
import grp
import os
import socket
import stat
from pathlib import Path

import msgspec


class UnixSocketAccess(msgspec.Struct, frozen=True):
    """The mode and the group of the unix sockets of a server."""

    mode: int = 0o660
    group: str | None = None
    """Name or number of the group of the files; None for that of the process."""


class UnixSocket(socket.socket):
    """A unix socket, and the file that it was bound to."""

    path = ""
    """Path of the file; empty for a duplicate of the socket, whose file it is not."""
    identity = (0, 0)
    """Device and inode of the file."""

    def remove_file(self) -> None:
        """Remove the file of the socket, unless another one is there by now."""
        if not self.path:
            return
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self.identity:
                Path(self.path).unlink()


def open_unix_socket(path: str, access: UnixSocketAccess) -> UnixSocket:
    """Bind a unix socket, to whose file nobody has any right before it has its mode and its group.

    Raises `OSError`, also if anything but the socket of a dead server is at the path, or if there is no such group.
    """
    group = -1 if access.group is None else _group_id(access.group)
    _make_way(path)
    listening = UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        umask = os.umask(0o777)
        try:
            listening.bind(path)
        finally:
            os.umask(umask)
        listening.path = path
        listening.identity = _set_access(path, access.mode, group)
    except BaseException:
        listening.remove_file()
        listening.close()
        raise
    return listening


def _make_way(path: str) -> None:
    """Remove the file of a server that was killed. Raises `OSError` if there is anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is not a socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _set_access(path: str, mode: int, group: int) -> tuple[int, int]:
    """Set the group and the mode of a socket's file, and return its device and inode. Raises `OSError`."""
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "another user has replaced its file")
        itself = f"/proc/self/fd/{file}"
        try:
            os.chown(itself, -1, group)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            problem = "socket_group does not exist in this user namespace: with PrivateUsers=, name it with Group= too"
            raise OSError(errno.EINVAL, problem) from exc
        os.chmod(itself, mode)  # noqa: PTH101  # the path may lead elsewhere by now
    finally:
        os.close(file)
    return found.st_dev, found.st_ino


def _group_id(group: str) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no group {group!r}, which socket_group names") from None
