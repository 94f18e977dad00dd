"""The largest graphs that may be submitted, and how long another client waits for an answer because of them."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from benchmarks import loads
from benchmarks.client import Connection, request
from benchmarks.probe import Probe, probing
from benchmarks.servers import Server
from benchmarks.table import Table

JOBS = f"{loads.COMPOSER}/jobs"
NEAR = "near"
FAR = "far"


class Edges:
    """A server with graphs, and a probe that another client is."""

    def __init__(self, table: Table, connection: Connection, probe: Probe) -> None:
        self._table = table
        self._connection = connection
        self._probe = probe

    async def submit(self, jobs: Sequence[Mapping[str, object]]) -> Sequence[str]:
        """Submit a batch, and return the ids of its jobs."""
        return await loads.submit_batch(self._connection, jobs)

    async def send(self, method: str, path: str, expect: int = 200) -> dict[str, Any]:
        """Send a request without a body, and return what the answer is."""
        body = await self._connection.send(request(method, JOBS + path, b""), expect)
        return json.loads(body) if body else {}

    async def during(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Print how long something takes, and for how long the other client waited meanwhile."""
        self._probe.longest()
        began = time.perf_counter()
        await work()
        took = time.perf_counter() - began
        self._table.figure(what, took * 1000, "ms")
        self._table.figure("  the longest delay of another client", self._probe.longest(), "ms")

    async def cancel(self, job_id: str, last: str) -> None:
        """Cancel a job, and wait until the last job that depends on it is canceled."""
        await self.send("POST", f"/{job_id}/cancel")
        while not (await self.send("GET", f"/{last}?wait=60s"))["canceled"]:
            pass

    async def listing(self) -> None:
        """Read a page of a thousand jobs."""
        await self.send("GET", "?limit=1000")


def depending(ids: Sequence[str], count: int, **fields: object) -> list[dict[str, object]]:
    """Return jobs that all depend on the same ones."""
    return [{"type": FAR, "dependencies": list(ids), **fields}] * count


async def measure(table: Table, server: Server, dependents: int) -> None:
    """Measure a bipartite graph, a chain and a hub with so many dependents."""
    connection = await Connection.open(server.host, server.port)
    (asked,) = await loads.submit_batch(connection, [{"type": "asked"}])
    with probing(server.host, server.port, f"{JOBS}/{asked}") as probe:
        edges = Edges(table, connection, probe)
        await edges.during("nothing", edges.listing)

        near = await edges.submit([{"type": NEAR}] * 1000)
        far: list[str] = []

        async def submit_far() -> None:
            far.extend(await edges.submit(depending(near, 10)))

        await edges.during("submission of 10 jobs with 1,000 dependencies each", submit_far)
        await edges.during("a page with these jobs", edges.listing)
        await edges.during("why one of them waits", lambda: edges.send("GET", f"/{far[0]}/why"))
        await edges.during("cancel of one of the dependencies", lambda: edges.cancel(near[0], far[0]))

        some = near[1:11]
        batch = depending(some, 1000)
        await edges.during("submission of 1,000 jobs with 10 dependencies each", lambda: edges.submit(batch))

        chain = (await edges.submit([{"type": NEAR}]))[:]
        for _ in range(4):
            named: list[Mapping[str, object]] = [{"type": FAR, "ref": "r0", "dependencies": [chain[-1]]}]
            named += [{"type": FAR, "ref": f"r{n}", "dependencies": [f"r{n - 1}"]} for n in range(1, 1000)]
            chain = [*chain, *await edges.submit(named)]
        await edges.during("cancel of a chain of 4,000", lambda: edges.cancel(chain[0], chain[-1]))

        (hub,) = await edges.submit([{"type": NEAR}])
        first = ""
        for _ in range(dependents // 1000):
            ids = await edges.submit(depending([hub], 1000))
            first = first or ids[0]
        await edges.during(f"get of a job with {dependents:,} dependents", lambda: edges.send("GET", f"/{hub}"))
        await edges.during("cancel of it and of all that depend on it", lambda: edges.cancel(hub, first))
        await edges.during("deletion of it", lambda: edges.send("DELETE", f"/{hub}", 204))
    connection.close()
