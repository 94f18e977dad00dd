"""The address of a server: where it is, and below which prefix."""

import re
from contextlib import suppress

from yarl import URL

from composerd_client.errors import UnexpectedAnswer
from composerd_protocol.loopback import is_loopback

_PATH = re.compile(r"/(?![/\\])[^\s\\\x00-\x1f\x7f-\x9f]*")
"""A path on the server, without anything that could be read as the name of another one."""

_APIS = "/api/"
"""The beginning of the paths of both APIs, behind any prefix."""


class Address:
    """A server's URL, or `unix:/path`. Raises `ValueError` if it is neither.

    A URL may have a path, for a server with a base path and for a proxy that serves composerd below a prefix.
    """

    def __init__(self, server: str) -> None:
        self.server = _without_login(server)
        """The address for messages, without user and password."""
        self.socket_path: str | None = None
        """The path of a unix socket; None for TCP."""
        self.host = "localhost"
        """The name or the IP address of the server, in small letters and as the resolver gets it."""
        self.port = 0
        self.has_login = False
        """True if the URL has a user or a password."""
        self._prefix = ""
        if server.startswith("unix:") and len(server) > len("unix:"):
            self.socket_path = server.removeprefix("unix:")
            self._origin = "http://localhost"
            return
        with suppress(ValueError):  # raised by yarl and IDNA
            url = URL(server)
            if url.scheme in ("http", "https") and url.host and url.port and not url.query_string and not url.fragment:
                url.host.encode("idna")  # as the resolver does
                self.host, self.port = (url.raw_host or "").rstrip("."), url.port
                self.has_login = url.user is not None or url.password is not None
                self._prefix = url.raw_path.rstrip("/")
                self._origin = str(url).rstrip("/").removesuffix(self._prefix)
                return
        raise ValueError(f"{self.server!r} is not a server: write http://HOST:PORT, https://HOST:PORT or unix:/path")

    @property
    def https(self) -> bool:
        """True if the connection has TLS."""
        return self._origin.startswith("https://")

    @property
    def is_local(self) -> bool:
        """True if the server is on this machine."""
        return self.socket_path is not None or is_loopback(self.host)

    def url(self, path: str) -> str:
        """Return the URL of a path, which the client has built without the prefix, or which the server has named.

        A server that knows its prefix names paths with it, and one behind a proxy that strips the prefix does not.
        Raises `UnexpectedAnswer` if the path is not one on this server.
        """
        if not _PATH.fullmatch(path):
            raise UnexpectedAnswer(f"the server names {path[:100]!r}, which is not a path on {self.server}")
        prefix = self._prefix
        complete = path.startswith(prefix + _APIS) or (not path.startswith(_APIS) and path.startswith(f"{prefix}/"))
        return self._origin + (path if complete else prefix + path)


def _without_login(server: str) -> str:
    """Return a URL without user and password, also if it is invalid."""
    scheme, separator, rest = server.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
