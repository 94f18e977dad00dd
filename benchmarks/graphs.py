"""What dependencies cost, a thousand to one job and one to a thousand, beside jobs without: `python -m benchmarks.graphs`."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import disk, loads, report, servers
from benchmarks.client import Connection, open_all
from benchmarks.program import on_fastest_loop, parser_of, pin, raise_descriptors, scratch_in
from benchmarks.servers import Server
from benchmarks.table import Table
from benchmarks.workers import Waiters

CONNECTIONS = 32
PARENT = "parent"
CHILD = "child"


class Graphs:
    """One server, and who submits to it and works for it."""

    def __init__(self, server: Server, pool: Sequence[Connection]) -> None:
        self.server = server
        self._submitter, self._last, self._waiting, *others = pool
        self._work = loads.Load(server, others, PARENT).work

    async def submit(self, job_type: str, count: int, dependencies: Sequence[str] = ()) -> Sequence[str]:
        """Submit jobs that all depend on the same."""
        jobs = [{**loads.submission(job_type), "dependencies": dependencies}] * count
        return await loads.submit_batch(self._submitter, jobs)

    async def fan_in(self, count: int) -> tuple[float, float]:
        """Let one job depend on many.

        How many of those are worked off a second, and the seconds from sending the last one's result until a worker has
        read the job.
        """
        await self.submit(CHILD, 1, await self.submit(PARENT, count))
        worked = await self._work(count - 1) if count > 1 else None
        last = await self._last.ask(loads.take_request(PARENT), 201)
        child = asyncio.create_task(self._waiting.ask(loads.take_request(CHILD), 201))
        await loads.somebody_waits(self._submitter)
        await self._last.ask(loads.finish_request(last), 200)
        finish = loads.finish_request(await child)
        took = self._waiting.answered_at - self._last.asked_at
        await self._waiting.ask(finish, 200)
        return (worked.operations / worked.seconds if worked else 0.0), took

    async def unrelated(self, count: int) -> float:
        """How many jobs without dependents are worked off a second."""
        await self.submit(PARENT, count)
        worked = await self._work(count)
        return worked.operations / worked.seconds

    async def fan_out(self, waiters: Waiters, count: int) -> float:
        """Let many jobs depend on one; the seconds from sending its result until all of them have been read."""
        await self.submit(CHILD, count, await self.submit(PARENT, 1))
        parent = await self._last.ask(loads.take_request(PARENT), 201)
        began = time.perf_counter()
        await self._last.ask(loads.finish_request(parent), 200)
        return await _all_arrived(waiters, count) - began

    async def at_once(self, waiters: Waiters, count: int) -> float:
        """Submit many jobs without dependencies; the seconds from sending them until all have been read."""
        began = time.perf_counter()
        await self.submit(CHILD, count)
        return await _all_arrived(waiters, count) - began


async def _all_arrived(waiters: Waiters, count: int) -> float:
    """When the last of so many jobs was read. They are finished only then."""
    at = max([await waiters.arrived.get() for _ in range(count)])
    waiters.may_finish.set()
    await waiters.again()
    waiters.may_finish.clear()
    return at


async def measure(table: Table, graphs: Graphs, count: int, rounds: int) -> None:
    """Each beside its like without dependencies, round by round; the first warms up."""
    many: list[tuple[float, float]] = []
    one: list[float] = []
    plain: list[float] = []
    for number in range(rounds + 1):
        found = await graphs.fan_in(count), (await graphs.fan_in(1))[1], await graphs.unrelated(count)
        if number > 0:
            many.append(found[0])
            one.append(found[1])
            plain.append(found[2])
    table.figure("from the only dependency's finish until the job is read", median(one) * 1000, "ms")
    table.figure(
        f"from the last of {count:,} dependencies' finish until it is read", median(t for _, t in many) * 1000, "ms"
    )
    table.figure("  to that of one", median(t for _, t in many) / median(one))
    table.figure("request + finish a second, jobs without dependents", median(plain))
    table.figure(f"request + finish a second, {count:,} that one job depends on", median(rate for rate, _ in many))
    table.figure("  to those without", median(rate for rate, _ in many) / median(plain))

    waiters = Waiters(graphs.server, CHILD, count)
    await waiters.come()
    waiters.may_finish.clear()
    out: list[float] = []
    free: list[float] = []
    for number in range(rounds + 1):
        pair = await graphs.fan_out(waiters, count), await graphs.at_once(waiters, count)
        if number > 0:
            out.append(pair[0])
            free.append(pair[1])
    table.figure(f"from the submit of {count:,} jobs until all are read", median(free) * 1000, "ms")
    table.figure(f"from a job's finish until {count:,} that depend on it are read", median(out) * 1000, "ms")
    table.figure("  to that", median(out) / median(free))
    await waiters.leave()


async def run(scratch: Path, count: int, rounds: int) -> None:
    """Start composerd and measure."""
    server_cores = pin()
    command = servers.composerd(scratch / "storage", connections=count + 1000)
    with servers.start(report.COMPOSERD, command, server_cores) as server:
        pool = await open_all(server.host, server.port, CONNECTIONS + 3)
        await measure(Table(disk.inspect(scratch).text()), Graphs(server, pool), count, rounds)
        for connection in pool:
            connection.close()


def main() -> None:
    """Read the command line, run."""
    parser = parser_of("graphs", __doc__)
    parser.add_argument(
        "--jobs", type=int, default=1000, help="how many dependencies, or dependents (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="how often each measurement is repeated (default: %(default)s)"
    )
    options = parser.parse_args()
    raise_descriptors()
    with scratch_in(options.directory) as scratch:
        on_fastest_loop(run(scratch, options.jobs, options.rounds))


if __name__ == "__main__":
    main()
