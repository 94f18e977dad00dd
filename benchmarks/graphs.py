"""Cost of a thousand dependencies of one job, and of a thousand dependents: `python -m benchmarks.graphs`.

Then the largest graphs, and how long another client waits for an answer because of them.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import disk, edges, loads, report, servers
from benchmarks.client import Connection, open_all
from benchmarks.program import on_fastest_loop, parser_of, pin, raise_descriptors, scratch_in
from benchmarks.servers import Server
from benchmarks.table import Table
from benchmarks.workers import Waiters

CONNECTIONS = 32
PARENT = "parent"
CHILD = "child"


class Graphs:
    """A server, with connections that submit jobs and work on them."""

    def __init__(self, server: Server, pool: Sequence[Connection]) -> None:
        self.server = server
        self._submitter, self._last, self._waiting, *others = pool
        self._work = loads.Load(server, others, PARENT).work

    async def submit(self, job_type: str, count: int, dependencies: Sequence[str] = ()) -> Sequence[str]:
        """Submit jobs that all have the same dependencies, and return their ids."""
        jobs = [{**loads.submission(job_type), "dependencies": dependencies}] * count
        return await loads.submit_batch(self._submitter, jobs)

    async def fan_in(self, count: int) -> tuple[float, float]:
        """Submit a job with many dependencies, and work on all of them.

        Return how many of the dependencies were finished a second, and the seconds from sending the result of the last
        one until a worker has read the dependent job.
        """
        await self.submit(CHILD, 1, await self.submit(PARENT, count))
        worked = await self._work(count - 1) if count > 1 else None
        last = await self._last.send(loads.claim_request(PARENT), 201)
        child = asyncio.create_task(self._waiting.send(loads.claim_request(CHILD), 201))
        await loads.until_waiting(self._submitter)
        await self._last.send(loads.finish_request(last), 200)
        finish = loads.finish_request(await child)
        took = self._waiting.answered_at - self._last.sent_at
        await self._waiting.send(finish, 200)
        return (worked.operations / worked.seconds if worked else 0.0), took

    async def unrelated(self, count: int) -> float:
        """Return how many jobs without dependents are finished a second."""
        await self.submit(PARENT, count)
        worked = await self._work(count)
        return worked.operations / worked.seconds

    async def fan_out(self, waiters: Waiters, count: int) -> float:
        """Return the seconds from sending a job's result until all of its many dependents have been read."""
        await self.submit(CHILD, count, await self.submit(PARENT, 1))
        parent = await self._last.send(loads.claim_request(PARENT), 201)
        began = time.perf_counter()
        await self._last.send(loads.finish_request(parent), 200)
        return await _all_arrived(waiters, count) - began

    async def at_once(self, waiters: Waiters, count: int) -> float:
        """Return the seconds from submitting many jobs without dependencies until all have been read."""
        began = time.perf_counter()
        await self.submit(CHILD, count)
        return await _all_arrived(waiters, count) - began


async def _all_arrived(waiters: Waiters, count: int) -> float:
    """Return the time when the last of these jobs was read, and let the workers finish them."""
    at = max([await waiters.arrived.get() for _ in range(count)])
    waiters.may_finish.set()
    await waiters.again()
    waiters.may_finish.clear()
    return at


async def measure(table: Table, graphs: Graphs, count: int, rounds: int) -> None:
    """Measure each case and the case that it is compared with, round by round; the first round warms up."""
    many: list[tuple[float, float]] = []
    one: list[float] = []
    plain: list[float] = []
    for number in range(rounds + 1):
        found = await graphs.fan_in(count), (await graphs.fan_in(1))[1], await graphs.unrelated(count)
        if number > 0:
            many.append(found[0])
            one.append(found[1])
            plain.append(found[2])
    table.figure("from the result of the only dependency until the job is read", median(one) * 1000, "ms")
    table.figure(
        f"from the result of the last of {count:,} until the job is read", median(t for _, t in many) * 1000, "ms"
    )
    table.figure("  ratio to one dependency", median(t for _, t in many) / median(one))
    table.figure("request + finish a second, jobs without dependents", median(plain))
    table.figure(f"request + finish a second, {count:,} dependencies of one job", median(rate for rate, _ in many))
    table.figure("  ratio to without dependents", median(rate for rate, _ in many) / median(plain))

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
    table.figure(f"from the submission of {count:,} jobs until all are read", median(free) * 1000, "ms")
    table.figure(f"from a job's result until its {count:,} dependents are read", median(out) * 1000, "ms")
    table.figure("  ratio to submitted jobs", median(out) / median(free))
    await waiters.leave()


async def run(scratch: Path, count: int, rounds: int, dependents: int) -> None:
    """Start composerd, and measure it."""
    server_cores = pin()
    command = servers.composerd(scratch / "storage", connections=2 * (count + 1000))
    with servers.start(report.COMPOSERD, command, server_cores) as server:
        pool = await open_all(server.host, server.port, CONNECTIONS + 3)
        table = Table(disk.inspect(scratch).text())
        await measure(table, Graphs(server, pool), count, rounds)
        await edges.measure(table, server, dependents)
        for connection in pool:
            connection.close()


def main() -> None:
    """Read the command line, and run the benchmark."""
    parser = parser_of("graphs", __doc__)
    parser.add_argument(
        "--jobs", type=int, default=1000, help="number of dependencies, and of dependents (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="number of rounds of each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--dependents",
        type=int,
        default=10_000,
        help="number of dependents of the largest graph, in thousands (default: %(default)s)",
    )
    options = parser.parse_args()
    raise_descriptors()
    with scratch_in(options.directory) as scratch:
        on_fastest_loop(run(scratch, options.jobs, options.rounds, options.dependents))


if __name__ == "__main__":
    main()
