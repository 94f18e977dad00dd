"""News from the other servers: a connection that listens, watched itself; or a look now and then where notifications do not arrive."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from composerd.errors import ComposerdError, Unavailable
from composerd.models import News
from composerd_postgres.db.connection import Collision, Connection
from composerd_postgres.jobs.decisions import channel_of
from composerd_postgres.news.changes import Changes, read_notice
from composerd_postgres.session import Session

log = logging.getLogger(__name__)

PROBE_AFTER = 5.0
"""After so long a silence the connection is tried: it sends itself a notification."""

PROBE_LIMIT = 5.0
"""How long that may take."""

_PROBE = "probe"

RECHECK = News(recheck=True)


async def watch(session: Session) -> AsyncIterator[News]:
    """What other servers say, until the connection is lost: then `Unavailable`. It begins with a re-check."""
    if not session.options.listen:
        while True:
            await asyncio.sleep(session.options.poll)
            yield _everything(session)
    connection = await session.connections.apart()
    notifications = _Notifications(connection)
    try:
        await connection.fetch(f'LISTEN "{channel_of(session.statements.schema)}"', {})
        yield _everything(session)  # what happened while nobody listened
        while True:
            text = await notifications.next(session)
            origin, changes = read_notice(text)
            if origin == session.origin:
                continue
            if changes.recheck:
                yield _everything(session)
            else:
                session.heads.became_ready(changes.first)
                yield changes.news()
    except Unavailable:
        session.connections.give_up_idle()  # if this one is dead, so are probably those
        raise
    finally:
        await notifications.close()
        connection.close()


def _everything(session: Session) -> News:
    session.heads.forget()
    return RECHECK


class _Notifications:
    """What arrives on a connection. A connection that is silent is made to say something, so that one that is half open is found."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._getting: asyncio.Task[Any] | None = None

    async def next(self, session: Session) -> str:
        """The next notification of another kind than our probes. Raises `Unavailable`."""
        probing = False
        while True:
            if self._getting is None:
                self._getting = asyncio.create_task(self._connection.raw.notifies.get())
            await asyncio.wait([self._getting], timeout=PROBE_LIMIT if probing else PROBE_AFTER)
            if self._getting.done():
                getting, self._getting = self._getting, None
                if getting.exception() is not None:
                    raise Unavailable("the connection that listens was lost")
                text = str(getting.result().payload)
                if not text.startswith(_PROBE):
                    return text
                probing &= text != f"{_PROBE} {session.origin}"
            elif probing:
                raise Unavailable(
                    "a notification to ourselves did not arrive: the connection is dead, or it goes through a pooler in "
                    "transaction mode, which the storage URL has to say (pooler=yes)"
                )
            else:
                await self._probe(session)
                probing = True

    async def _probe(self, session: Session) -> None:
        parameters = {"channel": channel_of(session.statements.schema), "text": f"{_PROBE} {session.origin}"}
        try:
            await self._connection.fetch("SELECT pg_notify(%(channel)s, %(text)s)", parameters, PROBE_LIMIT)
        except (ComposerdError, Collision) as exc:
            raise Unavailable(f"the connection that listens was lost: {exc}") from exc

    async def close(self) -> None:
        """Stop waiting."""
        if self._getting is not None:
            self._getting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._getting


def told(session: Session, changes: Changes) -> News:
    """What a call of our own changed: for its caller, and for where the next claims begin."""
    session.heads.became_ready(changes.first)
    return changes.news()
