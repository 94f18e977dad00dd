"""News of the other servers: from a connection that listens, or a regular re-check where none arrive."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from composerd.errors import ComposerdError, Unavailable
from composerd.models import News
from composerd_postgres.db.connection import Collision, Connection
from composerd_postgres.db.pool import Connections
from composerd_postgres.db.url import Options
from composerd_postgres.news.changes import channel_of, read_notice
from composerd_postgres.news.claim_hints import ClaimHints

log = logging.getLogger(__name__)

PROBE_AFTER = 5.0
"""Time in seconds that the connection may be silent before it sends itself a notification."""

PROBE_LIMIT = 5.0
"""Time in seconds that this notification may take."""

FULL = 0.9
"""Part of the database's queue of notifications from which on it counts as full."""

CHECK_LIMIT = 1.0
"""Time in seconds that finding out how a pooler treats the connection may take."""

POLLED_FOR = 600.0
"""Time in seconds after which a server that gets no notifications tries to listen again."""

_PROBE = "probe"

_WHICH_PROCESS = "SELECT pg_backend_pid() AS pid"

RECHECK = News(recheck=True)


class _Multiplexed(Exception):
    """Notifications do not arrive, because a pooler in transaction mode is between."""


async def watch(options: Options, connections: Connections, hints: ClaimHints, origin: str) -> AsyncIterator[News]:
    """Yield the news of other servers, a re-check of everything first; update the claim hints by them.

    Args:
        options: Say if notifications arrive. If not, a re-check is yielded regularly.
        connections: The pool; the connection that listens is not part of it.
        hints: The claim hints of this driver.
        origin: The name of this driver, whose own notifications are ignored.

    Raises:
        Unavailable: The connection was lost, or could not be opened.
    """
    now = asyncio.get_running_loop().time
    while True:
        poll_until = float("inf")
        if options.listen:
            try:
                async with aclosing(_listen(options, connections, hints, origin)) as listening:
                    async for news in listening:
                        yield news
            except _Multiplexed:
                log.error(  # noqa: TRY400  # needs no traceback
                    "a pooler in transaction mode keeps notifications away: add pooler=yes to the storage URL; until "
                    "then changes of other servers are looked for every %g s",
                    options.poll,
                )
            poll_until = now() + POLLED_FOR
        while now() < poll_until:
            await asyncio.sleep(options.poll)
            hints.forget()
            yield RECHECK


async def _listen(
    options: Options, connections: Connections, hints: ClaimHints, origin: str
) -> AsyncGenerator[News, None]:
    """Yield the news that arrive as notifications. Raises `Unavailable`, and `_Multiplexed` if they cannot arrive."""
    channel = channel_of(options.schema)
    connection = await connections.dedicated()
    notifications = _Notifications(connection, connections, channel, origin)
    try:
        await connection.fetch(f'LISTEN "{channel}"', {})
        hints.forget()
        yield RECHECK  # for what happened before it listened
        await notifications.check_session()
        while True:
            sender, changes = read_notice(await notifications.next())
            if sender == origin:
                continue
            if changes.recheck:
                hints.forget()
                yield RECHECK
            else:
                hints.became_ready(changes.first)
                yield changes.news()
    except Unavailable:
        connections.close_idle()  # they are probably as dead as this one
        raise
    finally:
        await notifications.close()
        connection.close()


class _Notifications:
    """The notifications that arrive on a connection.

    If none arrives for a while, the connection sends one to itself, to find out if it is dead.
    """

    def __init__(self, connection: Connection, connections: Connections, channel: str, origin: str) -> None:
        self._connection = connection
        self._connections = connections
        self._channel = channel
        self._probe_text = f"{_PROBE} {origin}"
        self._getting: asyncio.Task[Any] | None = None

    async def next(self) -> str:
        """Return the next notification that is not a probe.

        Raises:
            Unavailable: The connection was lost.
            _Multiplexed: A notification of this connection to itself does not arrive, though the database answers.
        """
        probing = False
        while True:
            if self._getting is None:
                self._getting = asyncio.create_task(self._connection.raw.notifies.get())
            await asyncio.wait([self._getting], timeout=PROBE_LIMIT if probing else PROBE_AFTER)
            if self._getting.done():
                getting, self._getting = self._getting, None
                if getting.exception() is not None:
                    raise Unavailable("the database closed the notification connection")
                text = str(getting.result().payload)
                if not text.startswith(_PROBE):
                    return text
                probing &= text != self._probe_text
            elif probing:
                raise _Multiplexed
            else:
                probing = await self._probe()

    async def _probe(self) -> bool:
        """Send a notification. Return False if there is no room for it; this shows too that the connection is alive.

        The question how full the queue is lets PostgreSQL drop what everybody has read. An error of the statement would
        end the queue of aiopg.
        """
        parameters = {"full": FULL, "channel": self._channel, "text": self._probe_text}
        try:
            (probe,) = await self._connection.fetch(
                "SELECT CASE WHEN pg_notification_queue_usage() < %(full)s "
                "THEN pg_notify(%(channel)s, %(text)s)::text END AS sent",
                parameters,
                PROBE_LIMIT,
            )
        except (ComposerdError, Collision) as exc:
            raise Unavailable(f"the notification connection failed: {exc}") from exc
        await self.check_session()
        return probe.sent is not None

    async def check_session(self) -> None:
        """Raise `_Multiplexed` if a pooler gives this connection's session of the database to other clients too.

        A pooler in transaction mode does: then this connection reaches different processes of the database, or two
        open connections reach the same.
        """
        if not self._connection.pooled:
            return
        with suppress(ComposerdError, Collision, TimeoutError):
            async with asyncio.timeout(CHECK_LIMIT):  # notifications wait meanwhile
                (mine,) = await self._connection.fetch(_WHICH_PROCESS, {})
                (other,) = await self._connections.fetch(_WHICH_PROCESS, {})
            if mine.pid != self._connection.backend or mine.pid == other.pid:
                raise _Multiplexed

    async def close(self) -> None:
        """Stop waiting for notifications."""
        if self._getting is not None:
            self._getting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._getting
