"""The hosts that a DSN names, and their addresses, so that a connection can be tried one address at a time.

libpq could try several hosts by itself, but it would give all the time to one that does not answer, and it looks up
names in the calling thread, which is the event loop's.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from psycopg2.extensions import parse_dsn


class Host(NamedTuple):
    """A host of a DSN, or one of its addresses.

    A field that the DSN does not set is None; libpq then uses its default.
    """

    host: str | None = None
    hostaddr: str | None = None
    port: str | None = None

    def parameters(self) -> dict[str, str]:
        """Return the connection parameters that select this host among those of the DSN."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def __str__(self) -> str:
        return self.hostaddr or self.host or "the local socket"


class Hosts:
    """The hosts of a DSN. Iterating yields the host of the latest successful connection first."""

    def __init__(self, dsn: str) -> None:
        self._hosts = _named(dsn)
        self.preferred: Host | None = None
        """The host of the latest successful connection."""
        self._last: Host | None = None
        """The address of `preferred` to which the latest connection was made."""
        self._lookups: dict[str, asyncio.Future[list[str]]] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(sorted(self._hosts, key=lambda host: host != self.preferred))

    async def addresses(self, host: Host) -> list[Host]:
        """Return a host once for each of its addresses; a host that has an address, or is a socket, as it is.

        Raises:
            OSError: The name cannot be looked up.
            UnicodeError: The name is not a valid host name.
        """
        name = host.host
        if host.hostaddr or not name or name.startswith(("/", "@")):
            return [host]
        if name not in self._lookups:  # a lookup that is running is shared, and goes on when its caller gives up
            self._lookups[name] = _lookup(name)
            self._lookups[name].add_done_callback(lambda _: self._lookups.pop(name))
        found = [host._replace(hostaddr=address) for address in await asyncio.shield(self._lookups[name])]
        return sorted(found, key=lambda one: one != self._last)

    def prefer(self, host: Host, address: Host) -> None:
        """Try this host, and this address of it, first from now on."""
        self.preferred, self._last = host, address


def _lookup(name: str) -> "asyncio.Future[list[str]]":
    """Look up a name in a thread of its own: a lookup cannot be stopped, and must not delay the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def answered(addresses: list[str], error: Exception | None) -> None:
        if error is None:
            answer.set_result(addresses)
        else:
            answer.set_exception(error)

    def look_up() -> None:
        addresses: list[str] = []
        error: Exception | None = None
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses = [socket.getnameinfo(address, socket.NI_NUMERICHOST)[0] for *_, address in found]
        except (OSError, UnicodeError) as exc:
            error = exc
        with suppress(RuntimeError):  # the loop is closed, so nobody waits for the answer
            loop.call_soon_threadsafe(answered, list(dict.fromkeys(addresses)), error)

    threading.Thread(target=look_up, name=f"lookup of {name}", daemon=True).start()
    return answer


def _named(dsn: str) -> list[Host]:
    """Return the hosts of a DSN; a single empty one if its lists do not match, so that libpq reports the mistake."""
    lists = {name: value.split(",") for name, value in parse_dsn(dsn).items() if name in Host._fields and value}
    count = len(lists.get("hostaddr") or lists.get("host") or [""])
    if len(lists.get("port", [])) == 1:
        lists["port"] *= count
    if any(len(values) != count for values in lists.values()):
        return [Host()]
    return [Host(**{name: values[nth] for name, values in lists.items()}) for nth in range(count)]
