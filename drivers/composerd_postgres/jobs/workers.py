"""The workers that were seen lately (`Driver.seen`, `sign_off`, `workers`, `worker_page`)."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from composerd.driver.clock import to_time
from composerd.driver.workers import MAX_BYTES, MAX_PAGE_BYTES
from composerd.models import Worker, WorkerCursor, WorkerPage
from composerd_postgres.session import Session
from composerd_postgres.sql.statements import array, encode

FORGET_EVERY = 1000
"""Number of workers that one server names before it lets the database forget those that do not fit."""

ALL = 2**31 - 1
"""A number of workers, and of bytes, that is not reached."""

LATEST = 250_000_000_000 * 10**6
"""A time in microseconds after all others, in the year 9892."""


class Workers:
    """The workers as one driver sees them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._named = 0
        """The number of workers that were named since `forget`."""

    async def seen(self, workers: Sequence[Worker]) -> None:
        """See `Driver.seen`."""
        await self._write("seen", workers)

    async def sign_off(self, workers: Sequence[Worker]) -> None:
        """See `Driver.sign_off`."""
        await self._write("sign_off", workers)

    async def _write(self, statement: str, workers: Sequence[Worker]) -> None:
        rest = list(workers)
        while rest:
            once = {one.id: one for one in reversed(rest)}  # a statement writes a row once
            await self._write_once(statement, [*once.values()][::-1])
            rest = [one for one in rest if once[one.id] is not one]
        self._named += len(workers)
        if self._named >= FORGET_EVERY:
            await self.forget()

    async def _write_once(self, statement: str, workers: Sequence[Worker]) -> None:
        session = self._session
        rows = [
            {
                "id": one.id,
                "arch": one.arch,
                "types": one.types,
                "channel": one.channel,
                "client": one.client,
                "problem": one.problem,
                "age": one.age,
            }
            for one in workers
        ]
        values = {"shift": session.shift, "workers": encode(rows)}
        await session.connections.fetch(session.statements[statement], values)

    async def forget(self) -> None:
        """Delete the workers that do not fit."""
        self._named = 0
        await self._session.connections.fetch(self._session.statements["forget_workers"], {"most": MAX_BYTES})

    async def since(self, within: float, ids: Sequence[UUID] | None) -> list[Worker]:
        """See `Driver.workers`."""
        found = await self._find(within, ids=None if ids is None else array(ids))
        return [_worker(row) for row in found]

    async def page(self, within: float, after: WorkerCursor | None, limit: int, channel: str | None) -> WorkerPage:
        """See `Driver.worker_page`."""
        start: dict[str, Any] = {"channel": channel}
        if after is not None:
            start |= {"after": str(after.id), "seen": to_time(min(after.seen, LATEST))}
        rows = await self._find(within, limit=limit + 1, most=MAX_PAGE_BYTES, **start)
        shown = rows[:limit]
        more = bool(shown) and rows[0].found > len(shown)
        return WorkerPage(tuple(map(_worker, shown)), WorkerCursor(shown[-1].seen_at, shown[-1].id) if more else None)

    async def _find(self, within: float, **chosen: Any) -> list[Any]:
        session = self._session
        parameters = {
            "shift": session.shift,
            "within": within,
            "ids": None,
            "channel": None,
            "after": None,
            "seen": None,
            "limit": ALL,
            "most": ALL,
            **chosen,
        }
        return await session.connections.fetch(session.statements["workers"], parameters)


def _worker(row: Any) -> Worker:
    return Worker(
        row.id,
        row.arch,
        tuple(row.types),
        row.channel,
        to_time(row.seen_at),
        tuple(row.jobs or ()),
        row.client,
        row.problem or None,
    )
