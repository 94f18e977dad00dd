"""The hosts that a DSN names, an address at a time: libpq would wait for a silent one for ever, and look up names in the loop's thread."""

import asyncio
import socket
from collections.abc import Iterator
from typing import NamedTuple

from psycopg2.extensions import parse_dsn


class Host(NamedTuple):
    """A host as it is named; "" stands for what libpq takes where nothing is named."""

    host: str = ""
    hostaddr: str = ""
    port: str = ""

    def parameters(self) -> dict[str, str]:
        """What libpq is told of it."""
        return {name: value for name, value in self._asdict().items() if value}


class Hosts:
    """All hosts of a DSN. The one that was last of use comes first: none that is known to be of none is tried before it."""

    def __init__(self, dsn: str) -> None:
        self._hosts = _named(dsn)
        self._last: Host | None = None
        self._lookups: dict[str, asyncio.Task[list[str]]] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(sorted(self._hosts, key=lambda host: self._last not in (host, self._last_of(host))))

    def _last_of(self, host: Host) -> Host | None:
        """The last address of use, if it is one of that host."""
        last = self._last
        return (
            last if last is not None and host == last._replace(hostaddr=host.hostaddr) and not host.hostaddr else None
        )

    async def addresses(self, host: Host) -> list[Host]:
        """A host by each of its addresses; by itself if it has one already, or is a socket. Raises `OSError`."""
        if host.hostaddr or not host.host or host.host.startswith(("/", "@")):
            return [host]
        # One lookup at a time, which goes on when nobody waits for it any more: it cannot be stopped, and holds a thread.
        if host.host not in self._lookups:
            self._lookups[host.host] = asyncio.create_task(_lookup(host.host))
            self._lookups[host.host].add_done_callback(lambda _: self._lookups.pop(host.host))
        found = [host._replace(hostaddr=address) for address in await asyncio.shield(self._lookups[host.host])]
        return sorted(found, key=lambda one: one != self._last)

    def was_of_use(self, host: Host) -> None:
        """Begin with this one from now on."""
        self._last = host


async def _lookup(name: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(socket.getnameinfo(address, socket.NI_NUMERICHOST)[0] for *_, address in found))


def _named(dsn: str) -> list[Host]:
    """What the DSN says, or all of it as one, for libpq to say what is wrong with it."""
    lists = {name: value.split(",") for name, value in parse_dsn(dsn).items() if name in Host._fields and value}
    count = len(lists.get("hostaddr") or lists.get("host") or [""])
    if len(lists.get("port", [])) == 1:
        lists["port"] *= count
    if any(len(values) != count for values in lists.values()):
        return [Host()]
    return [Host(**{name: values[nth] for name, values in lists.items()}) for nth in range(count)]
