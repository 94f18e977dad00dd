"""The hosts that a DSN names, an address at a time: libpq would give a silent one all the time there is, and look names up in the loop."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from psycopg2.extensions import parse_dsn


class Host(NamedTuple):
    """A host as it is named; None where the DSN says nothing of the kind for any, and libpq knows what to take."""

    host: str | None = None
    hostaddr: str | None = None
    port: str | None = None

    def parameters(self) -> dict[str, str]:
        """What libpq is told of it in place of what the DSN says of all."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def __str__(self) -> str:
        return self.hostaddr or self.host or "the local socket"


class Hosts:
    """All hosts of a DSN. The one that was of use last comes first."""

    def __init__(self, dsn: str) -> None:
        self._hosts = _named(dsn)
        self._first: Host | None = None
        self._last: Host | None = None
        """The address of that one."""
        self._lookups: dict[str, asyncio.Future[list[str]]] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(sorted(self._hosts, key=lambda host: host != self._first))

    async def addresses(self, host: Host) -> list[Host]:
        """A host by each of its addresses; by itself if it has one already, or is a socket. Raises `OSError`, `UnicodeError`."""
        name = host.host
        if host.hostaddr or not name or name.startswith(("/", "@")):
            return [host]
        if name not in self._lookups:  # one lookup at a time, which goes on when nobody waits for it any more
            self._lookups[name] = _lookup(name)
            self._lookups[name].add_done_callback(lambda _: self._lookups.pop(name))
        found = [host._replace(hostaddr=address) for address in await asyncio.shield(self._lookups[name])]
        return sorted(found, key=lambda one: one != self._last)

    def was_of_use(self, host: Host, address: Host) -> None:
        """Begin with this one from now on."""
        self._first, self._last = host, address


def _lookup(name: str) -> "asyncio.Future[list[str]]":
    """Look up a name in a thread of its own: it cannot be stopped, and the end of the process is not to wait for it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def answered(addresses: list[str], error: Exception | None) -> None:
        if error is None:
            answer.set_result(addresses)
        else:
            answer.set_exception(error)

    def look() -> None:
        addresses: list[str] = []
        error: Exception | None = None
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses = [socket.getnameinfo(address, socket.NI_NUMERICHOST)[0] for *_, address in found]
        except (OSError, UnicodeError) as exc:
            error = exc
        with suppress(RuntimeError):  # the loop is closed: nobody waits for it
            loop.call_soon_threadsafe(answered, list(dict.fromkeys(addresses)), error)

    threading.Thread(target=look, name=f"lookup of {name}", daemon=True).start()
    return answer


def _named(dsn: str) -> list[Host]:
    """What the DSN says, or all of it as one, for libpq to say what is wrong with it."""
    lists = {name: value.split(",") for name, value in parse_dsn(dsn).items() if name in Host._fields and value}
    count = len(lists.get("hostaddr") or lists.get("host") or [""])
    if len(lists.get("port", [])) == 1:
        lists["port"] *= count
    if any(len(values) != count for values in lists.values()):
        return [Host()]
    return [Host(**{name: values[nth] for name, values in lists.items()}) for nth in range(count)]
