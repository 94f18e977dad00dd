"""Identities of processes at the other end of a unix socket, from what the kernel says of their users and groups."""

import ctypes
import errno
import grp
import os
import pwd
import socket
import struct
from asyncio import BaseTransport
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from composerd.errors import NotAuthenticated
from composerd.identity.connections import ConnectionSource
from composerd.identity.entries import Entry, parse_entries
from composerd.identity.roles import Role
from composerd.identity.values import Identity
from composerd.watched_file import WatchedFile

SOURCE = "socket"

_CREDENTIALS = struct.Struct("iII")
"""Process, user and group of a peer: `struct ucred`."""

_SO_PEERGROUPS = 59
"""The option of Linux for the supplementary groups of a peer; the `socket` module does not have it."""

_ID = 4
"""Bytes of the id of a group."""

_libc = ctypes.CDLL(None, use_errno=True)


class Peer(NamedTuple):
    """The user and the groups of a process at the moment at which it connected."""

    user: int
    groups: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end of a unix socket. Raises `OSError`."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, group = _CREDENTIALS.unpack(found)
    return Peer(user, frozenset((group, *_supplementary_groups(connection.fileno()))))


def _supplementary_groups(descriptor: int) -> tuple[int, ...]:
    """Return the supplementary groups of a peer. There are none on kernels that cannot tell, as before Linux 4.13."""
    room = 32
    while True:  # the `socket` module has room for 256 groups only, and users of a large directory have more
        groups = (ctypes.c_uint32 * room)()
        size = ctypes.c_uint(ctypes.sizeof(groups))
        if _libc.getsockopt(descriptor, socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)) == 0:
            return tuple(groups[: size.value // _ID])
        if (number := ctypes.get_errno()) != errno.ERANGE:
            if number == errno.ENOPROTOOPT:
                return ()
            raise OSError(number, os.strerror(number))
        room = size.value // _ID


_Number = Annotated[int, msgspec.Meta(ge=0)]


class PeerEntry(Entry, frozen=True, kw_only=True):
    """The identity of a user, or of the members of a group, by name or by number."""

    user: str | _Number | None = None
    group: str | _Number | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.named_by(("user", "group"))


class MappedPeer(NamedTuple):
    """The identity of a user or a group whose number is known."""

    user: int | None
    group: int | None
    entry: PeerEntry

    def identity(self, peer: Peer) -> Identity | None:
        """Return the identity of a peer, if it is that user or a member of that group."""
        if self.user != peer.user and self.group not in peer.groups:
            return None
        name = self.entry.name or (self.entry.user if isinstance(self.entry.user, str) else f"uid-{peer.user}")
        return Identity(name, self.entry.role, self.entry.tenant, SOURCE)


def parse_peers(content: bytes) -> Sequence[MappedPeer]:
    """Return the entries of the file that `socket_identities` names. Raises `ValueError`."""
    return tuple(
        MappedPeer(
            _number(entry.user, "user", "uid", lambda name: pwd.getpwnam(name).pw_uid),
            _number(entry.group, "group", "gid", lambda name: grp.getgrnam(name).gr_gid),
            entry,
        )
        for entry in parse_entries(content, PeerEntry)
    )


def _number(given: str | int | None, kind: str, short: str, find: Callable[[str], int]) -> int | None:
    """Return the number of a user or a group that is named or numbered. Raises `ValueError`."""
    if isinstance(given, str):
        try:
            given = find(given)
        except KeyError:
            raise ValueError(f"there is no {kind} {given!r}") from None
    if given is not None and given == overflow(short):
        raise ValueError(f"{kind} {given} stands for every {kind} of another user namespace: it may not be mapped")
    return given


def overflow(short: str) -> int:
    """Return the `uid` or the `gid` that stands for all that do not exist in this user namespace."""
    try:
        return int(Path(f"/proc/sys/kernel/overflow{short}").read_text(encoding="ascii"))
    except OSError:
        return 65534


class UnixPeers(ConnectionSource[Sequence[MappedPeer]]):
    """The source of identities that asks the kernel who is at the other end of a unix socket."""

    def __init__(self, file: WatchedFile[Sequence[MappedPeer]] | None, groups: Mapping[str | bytes, int]) -> None:
        """Take the identities from a file.

        Root and the user of this process are `admin` if it does not name them. Without a file, so are the members of
        the group of the socket; `groups` has it for the path of each.
        """
        super().__init__(file)
        self._groups = groups
        own = os.geteuid()
        self._own = {0: "root", own: _name(own)}
        # They may be anybody: every user and group of another user namespace looks like them.
        self._own.pop(overflow("uid"), None)
        self._no_group = overflow("gid")

    def _look_at(self, transport: BaseTransport, mapped: Sequence[MappedPeer] | None) -> Identity | None:
        connection = transport.get_extra_info("socket")
        if connection is None or connection.family != socket.AF_UNIX:
            return None
        peer = peer_of(connection)
        for one in mapped or ():
            if (identity := one.identity(peer)) is not None:
                return identity
        if (name := self._own.get(peer.user)) is not None:
            return Identity(name, Role.ADMIN, None, SOURCE)
        group = self._groups.get(transport.get_extra_info("sockname"), self._no_group)
        if mapped is None and group != self._no_group and group in peer.groups:
            return Identity(f"uid-{peer.user}", Role.ADMIN, None, SOURCE)
        problem = "no identity belongs to the user at the other end of the unix socket, nor to a group of it"
        raise NotAuthenticated(problem=f"{problem}: name one of them in socket_identities", uid=peer.user)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid-{user}"
