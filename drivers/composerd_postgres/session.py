"""`Session`: what all operations of one driver share."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from composerd.driver.clock import Clock, microseconds
from composerd.models import News
from composerd_postgres.db.connection import Collision, LimitExceeded, Transaction
from composerd_postgres.db.copying import Payloads
from composerd_postgres.db.pool import Connections
from composerd_postgres.db.url import Options
from composerd_postgres.news.changes import Changes, channel_of, notices
from composerd_postgres.news.claim_hints import ClaimHints
from composerd_postgres.news.watch import FULL
from composerd_postgres.sql.statements import Statements, encode

log = logging.getLogger(__name__)

SILENCE = 60.0
"""Time in seconds during which no notifications are sent after the queue stayed full."""

NO_TABLES: Mapping[str, Payloads] = {}

HANGS_AFTER = 1.0
"""Time in seconds after which a renewal of leases that has got no answer hangs."""


class Session:
    """The options, statements, connections, claim hints and clock of one driver."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.statements = Statements(options.schema)
        self.connections = Connections(options)
        self.hints = ClaimHints()
        self.origin = uuid4().hex[:12]
        """The name of this driver in notifications."""
        self.clock = Clock()
        """The time that passes here. The wall time is the database's."""
        self._shift = 0.0
        self.shift = "0 seconds"
        """Seconds by which this driver's clock is ahead of the database's; not 0 in tests only."""
        self._renewals: list[float] = []
        """The times, by the loop's clock, since which leases are being renewed; the earliest first."""
        self.worked = 0
        """The time since the last note of `attend` that was only let pass on `clock`; not 0 in tests only."""
        self.expiry_at = 0
        """The time that has passed on `clock` when a lease may expire. The leases need not be read before."""
        self.fold_at = float("-inf")
        """The time, by the loop's clock, at which the counts are folded next."""
        self._silent_until = float("-inf")
        """The time, by the loop's clock, before which no notifications are sent, because there is no room for them."""

    def expires_in(self, seconds: float) -> None:
        """Let the leases be read after this number of seconds, or earlier: an attempt that began may expire then."""
        self.expiry_at = min(self.expiry_at, self.clock.elapsed() + microseconds(seconds))

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Note that leases are being renewed."""
        began = asyncio.get_running_loop().time()
        self._renewals.append(began)
        try:
            yield
        finally:
            self._renewals.remove(began)

    @property
    def renewals_hang(self) -> bool:
        """True if leases are being renewed for so long that others may have expired meanwhile."""
        return bool(self._renewals) and asyncio.get_running_loop().time() - self._renewals[0] > HANGS_AFTER

    def shift_clock(self, seconds: float) -> None:
        """Let time pass on this driver's clock, in which it works."""
        self.clock.shift(seconds)
        self.worked += microseconds(seconds)
        self.jump_clock(seconds)

    def jump_clock(self, seconds: float) -> None:
        """Step this driver's clock while no time passes."""
        self._shift += seconds
        self.shift = f"{self._shift} seconds"

    async def commit(
        self,
        transaction: Transaction,
        names: Sequence[str],
        parameters: Mapping[str, Any],
        changes: Changes,
        tables: Mapping[str, Payloads] = NO_TABLES,
    ) -> None:
        """Commit a transaction after some statements, and announce its changes to the other servers, if they listen.

        The statements that `tables` names are executed last, and copy payloads.

        Raises what `Transaction.commit` raises. A `Collision` may also mean that there was no room for the
        notifications; the repetition of the transaction finds room, or is not announced.
        """
        texts = notices(self.origin, changes) if self._may_notify() else []
        if texts:
            names = [*names, "notify"]
            parameters = {**parameters, "channel": channel_of(self.options.schema), "notices": encode(texts)}
        try:
            await transaction.commit(self.statements.joined(*names, *tables), parameters, [*tables.values()])
        except LimitExceeded as exc:
            if not texts:
                raise
            await self._make_room(transaction)
            raise Collision(str(exc)) from exc

    def _may_notify(self) -> bool:
        return self.options.listen and asyncio.get_running_loop().time() >= self._silent_until

    async def _make_room(self, transaction: Transaction) -> None:
        """Let PostgreSQL drop the notifications that everybody has read, which it does not do once their queue is full.

        If another session still has to read them, send none for a while: the other servers find the changes themselves.
        """
        (queue,) = await transaction.roll_back("SELECT pg_notification_queue_usage() AS usage")
        if queue.usage > FULL:
            self._silent_until = asyncio.get_running_loop().time() + SILENCE
            log.warning(
                "the notification queue of the database is full: no notification is sent for %d s, and other servers "
                "find changes later; a session that listens in a long transaction keeps it full",
                SILENCE,
            )

    def announce(self, changes: Changes) -> News:
        """Update the claim hints by the changes of a call, and return them as news for its caller."""
        self.hints.became_ready(changes.first)
        return changes.news()
