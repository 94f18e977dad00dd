"""File descriptors: how many connections and transfers of files fit into the limit of open files."""

import logging
import resource

import msgspec

from composerd.settings import SettingsError

log = logging.getLogger(__name__)

OWN = 96
"""Descriptors for everything else: the storage and its connections, listening sockets, logs, looking up names,
and connections beyond the limit, which get one answer."""

MOST_TRANSFERS = 512
"""Most uploads and downloads of files at the same time. Each has a file open besides its connection."""

LEAST = 128
"""The least limit of open files with which a server starts."""

_PART_FOR_TRANSFERS = 8
"""If not everything fits, transfers get the remaining descriptors divided by this."""


class Descriptors(msgspec.Struct, frozen=True):
    """Numbers of what may be open at the same time."""

    connections: int
    transfers: int
    """Uploads and downloads of files."""
    limit: int | None = None
    """The limit of open files, if it could not be raised to what was wanted."""

    def log_shortage(self, max_connections: int) -> None:
        """Log if fewer connections are accepted than `max_connections`."""
        if self.connections < max_connections:
            log.warning(
                "accepting at most %d connections, not %d as max_connections says: the limit of open files is %d; "
                "raise it with ulimit -Hn, or LimitNOFILE= in the systemd unit",
                self.connections,
                max_connections,
                self.limit,
            )


def share_out(max_connections: int) -> Descriptors:
    """Raise the limit of open files as far as needed and possible, and share the descriptors out.

    Raises `SettingsError` if they are too few for a server.
    """
    wanted = Descriptors(max_connections, min(max_connections, MOST_TRANSFERS))
    limit = _raised_limit(wanted.connections + wanted.transfers + OWN)
    if limit is None:
        return wanted
    if limit < LEAST:
        raise SettingsError(
            f"the limit of open files is {limit}, but a server needs at least {LEAST}, and one more for each "
            "connection: raise it with ulimit -Hn, or LimitNOFILE= in the systemd unit"
        )
    left = limit - OWN
    transfers = min(wanted.transfers, left // _PART_FOR_TRANSFERS)
    return Descriptors(min(wanted.connections, left - transfers), transfers, limit)


def _raised_limit(need: int) -> int | None:
    """Raise the limit of open files to `need`, and return the limit if that is not possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return None
    new_hard = need if hard != resource.RLIM_INFINITY and hard < need else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, new_hard))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return None
