"""Notices that several hosts of a storage URL accept writes and are not the same server: each then has jobs of its own.

That happens if a standby was promoted and the old primary goes on. composerd cannot know which one is right.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

import psycopg2

from composerd.errors import ComposerdError, DriverError
from composerd_postgres.db.connecting import open_address
from composerd_postgres.db.connection import Collision, Connection
from composerd_postgres.db.hosts import Host, Hosts
from composerd_postgres.db.url import Options

log = logging.getLogger(__name__)

EVERY = 30.0
"""Interval in seconds at which the hosts are looked at."""

REMIND_AFTER = 600.0
"""Time in seconds after which it is logged again that several hosts accept writes."""

_SERVER = """
SELECT pg_postmaster_start_time() AS started,
    NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean AS writable
"""

_HISTORY = """
SELECT system_identifier AS system,
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline
FROM pg_control_system()
"""
"""Not every service permits this."""


class Writable(NamedTuple):
    """A host that accepts writes."""

    host: Host
    started: int
    """The time when the server there was started, which tells servers apart."""
    system: int | None = None
    """Standbys have that of their primary; None if it cannot be asked for."""
    timeline: int | None = None
    """A promotion begins a new one, with a larger number; None if it cannot be asked for."""

    def __str__(self) -> str:
        known = "" if self.system is None else f" (system identifier {self.system}, timeline {self.timeline})"
        return f"{self.host}{known}"


class Rivals:
    """The hosts of a storage URL that accept writes."""

    def __init__(self, options: Options, hosts: Hosts) -> None:
        self._options = options
        self._hosts = hosts
        self._found: Sequence[Writable] = ()
        """The hosts that accept writes if they are different servers, otherwise nothing."""
        self._logged_at = float("-inf")
        self._task: asyncio.Task[NoReturn] | None = None

    def begin(self) -> None:
        """Begin to look at the hosts regularly if there are several."""
        if len(self._hosts) > 1:
            self._task = asyncio.create_task(self._run(), name="look at the hosts")

    def end(self) -> None:
        """Stop looking at the hosts."""
        if self._task is not None:
            self._task.cancel()  # closes the connections that it uses

    @property
    def problem(self) -> str:
        """A sentence about the hosts that accept writes; empty if there is one at most."""
        named = " and ".join(str(one) for one in self._found)
        return named and f"{named} accept writes and are different servers, so each has jobs that the other lacks"

    @property
    def outdated(self) -> bool:
        """True if another host accepts writes that was promoted later than the one that this server uses."""
        current = next((one for one in self._found if one.host == self._hosts.preferred), None)
        return current is not None and any(
            one.system == current.system and (one.timeline or 0) > (current.timeline or 0) for one in self._found
        )

    async def _run(self) -> NoReturn:
        while True:
            await asyncio.sleep(EVERY)
            await self.look()
            now = asyncio.get_running_loop().time()
            if self._found and now > self._logged_at + REMIND_AFTER:
                self._logged_at = now
                log.error("several hosts of the database accept writes: %s; stop all but the primary", self.problem)
            elif not self._found and self._logged_at > float("-inf"):
                self._logged_at = float("-inf")
                log.warning("only one host of the database accepts writes again")

    async def look(self) -> None:
        """Ask every host whether it accepts writes, if there are several."""
        if len(self._hosts) > 1:
            # Two names of one server seem to be different servers if it was restarted between the questions.
            self._found = await self._different() and await self._different()

    async def _different(self) -> Sequence[Writable]:
        """Return the hosts that accept writes if they are different servers, otherwise nothing."""
        answers = await asyncio.gather(*(self._ask(host) for host in self._hosts))
        found = [answer for answer in answers if answer is not None]
        return found if len({one.started for one in found}) > 1 else ()

    async def _ask(self, host: Host) -> Writable | None:
        """Return what is known about a host; None if it does not answer, or accepts no writes."""
        with suppress(ComposerdError, Collision, psycopg2.Error, OSError, UnicodeError):
            async with asyncio.timeout(self._options.connect_timeout):
                address, *_ = await self._hosts.addresses(host)
                connection = await open_address(self._options, address, self._options.connect_timeout)
                try:
                    return await _ask(host, connection)
                finally:
                    connection.close()
        return None


async def _ask(host: Host, connection: Connection) -> Writable | None:
    (server,) = await connection.fetch(_SERVER, {})
    if not server.writable:
        return None
    try:
        (history,) = await connection.fetch(_HISTORY, {})
    except DriverError:
        return Writable(host, server.started)
    return Writable(host, server.started, history.system, history.timeline)
