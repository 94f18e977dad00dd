"""Cost of many workers for the server, and their effect on other requests: `python -m benchmarks.crowd`.

10,000 workers by default wait, all reconnect at once, run jobs and send heartbeats.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from benchmarks import disk, limit, loads, report, servers
from benchmarks.client import Connection, open_all
from benchmarks.program import on_fastest_loop, parser_of, pin, progress, raise_descriptors, scratch_in
from benchmarks.servers import Server
from benchmarks.table import Table, p99
from benchmarks.workers import Asking, Running, Waiters, probed

CONNECTIONS = 32
HANDOVERS = 100
HEARTBEAT = 15.0
"""Seconds between two heartbeats of a worker, as for osbuild-worker."""
ASKING = 20.0
"""Seconds that a worker waits before it asks again, as our own and those behind a proxy do."""
ROUND = 2_000
ROUNDS = 5
SINGLE = 0.005
"""Seconds between two single submissions."""
JOB_TYPE = "benchmark"
RUNNING_TYPE = "running"


async def measure_waits(table: Table, server: Server, count: int) -> None:
    """Measure waiting workers: their memory, a reconnect of all of them, and handovers."""
    waiters = Waiters(server, limit.HANDOVER, count)
    before = server.memory()
    await waiters.come()
    each = (server.memory() - before) / count / 1024
    row = f"{server.name}: memory of one of {count:,} idle waits"
    if server.name == report.COMPOSERD:
        table.at_most(15, row, each, "KiB")
    else:
        table.figure(row, each, "KiB")
    table.figure("  handover meanwhile, p50", median(await handovers(server, waiters)) * 1000, "ms")
    with probed(server) as probes:
        began = time.perf_counter()
        cpu = server.cpu_seconds()
        await waiters.leave()
        again = await waiters.come()
    table.figure("  time until all wait again, after all reconnect at once", again - began, "s")
    table.figure("  CPU of the server for each reconnect", (server.cpu_seconds() - cpu) / count * 1e6, "µs")
    table.figure("  longest time without an answer of the server meanwhile", max(probes), "s")
    after = await handovers(server, waiters)
    table.figure("  the first handover after it", after[0] * 1000, "ms")
    table.figure("  handover after it, p50", median(after) * 1000, "ms")
    table.figure("  memory of one idle wait afterwards", (server.memory() - before) / count / 1024, "KiB")
    await waiters.leave()


async def measure_asking(table: Table, server: Server, count: int) -> None:
    """Measure workers that ask again after each wait, while there are no jobs."""
    crowd = Asking(server, JOB_TYPE, count, ASKING)
    async with crowd.asking():
        answered, cpu, began = crowd.answered, server.cpu_seconds(), time.perf_counter()
        with probed(server) as probes:
            await asyncio.sleep(ASKING)
        seconds, cpu, answered = time.perf_counter() - began, server.cpu_seconds() - cpu, crowd.answered - answered
    table.figure(
        f"{server.name}: answers a second to {count:,} workers that ask every {ASKING:g} s", answered / seconds
    )
    table.figure("  share of a core that they take", cpu / seconds * 100, "%")
    table.figure("  CPU for each", cpu / answered * 1e6, "µs")
    table.figure("  longest time without an answer of the server meanwhile", max(probes), "s")


async def handovers(server: Server, waiters: Waiters) -> Sequence[float]:
    """Return the seconds from the submission of a job until a waiter has read it, one job at a time."""
    submitter = await Connection.open(server.host, server.port)
    message = loads.submit_request(limit.HANDOVER)
    took = []
    for _ in range(HANDOVERS):
        await submitter.send(message, 201)
        took.append(await waiters.arrived.get() - submitter.sent_at)
        await asyncio.sleep(0.01)  # the waiter finishes and waits again before the next measurement
    submitter.close()
    return took


async def measure_heartbeats(table: Table, plain: Server, bare: Server, count: int) -> None:
    """Measure heartbeats of running jobs, and submissions at the same time."""
    await loads.fill(plain, RUNNING_TYPE, count)
    pool = await open_all(plain.host, plain.port, CONNECTIONS)
    jobs = await loads.Load(plain, pool, RUNNING_TYPE).claim(count)
    # First the limit, then composerd: both crowds together would exceed the limit of open files. The limit gives every
    # worker the same answers.
    crowd = await Running.start(bare, jobs, HEARTBEAT)
    cost_of_limit = await cost(table, bare, crowd)
    crowd.leave()
    crowd = await Running.start(plain, jobs, HEARTBEAT)
    table.figure("  ratio of the limit's CPU to composerd's", cost_of_limit / await cost(table, plain, crowd))

    alone: list[float] = []
    beside: list[float] = []
    for _ in range(3):
        alone += await singles(pool[0])
        async with crowd.beating():
            beside += await singles(pool[0])
    table.figure("p99 of a submission, one at a time, without heartbeats", p99(alone) * 1000, "ms")
    table.figure("p99 of a submission, one at a time, beside heartbeats", p99(beside) * 1000, "ms")
    table.figure("  ratio to without", p99(beside) / p99(alone))

    load = loads.Load(plain, pool, JOB_TYPE)
    without: list[loads.Sample] = []
    within: list[loads.Sample] = []
    await load.submit(ROUND)
    for _ in range(ROUNDS):
        without.append(await load.submit(ROUND))
        async with crowd.beating():
            within.append(await load.submit(ROUND))
    table.figure("submissions a second without heartbeats", loads.rate(without))
    table.figure("submissions a second beside heartbeats", loads.rate(within))
    table.figure("  ratio to without", loads.rate(within) / loads.rate(without))
    running = await loads.value_of(pool[0], 'composerd_jobs{state="running"}')
    if running != count:
        sys.exit(f"{count - running} of {count} running jobs were lost")
    crowd.leave()
    for connection in pool:
        connection.close()


async def cost(table: Table, server: Server, crowd: Running) -> float:
    """Return the CPU seconds of the server for a heartbeat, while there is no other load."""
    began, cpu = time.perf_counter(), server.cpu_seconds()
    async with crowd.beating():
        await asyncio.sleep(HEARTBEAT)
    seconds, cpu = time.perf_counter() - began, server.cpu_seconds() - cpu
    table.figure(f"{server.name}: heartbeats a second", len(crowd.took) / seconds)
    table.figure("  share of a core that they take", cpu / seconds * 100, "%")
    table.figure("  CPU for each", cpu / len(crowd.took) * 1e6, "µs")
    table.figure("  p99 of one", p99(crowd.took) * 1000, "ms")
    return cpu / len(crowd.took)


async def singles(connection: Connection) -> Sequence[float]:
    """Return the seconds of 500 submissions, one every few milliseconds."""
    took = []
    message = loads.submit_request(JOB_TYPE)
    for _ in range(500):
        await connection.send(message, 201)
        took.append(connection.answered_at - connection.sent_at)
        await asyncio.sleep(SINGLE)
    return took


async def run(scratch: Path, count: int) -> None:
    """Start the servers, and measure them."""
    server_cores = pin()
    with contextlib.ExitStack() as stack:
        # Each client gets at most half of the connections, and all of these workers have one address.
        command = servers.composerd(scratch / "storage", connections=2 * count + 1000)
        plain = stack.enter_context(servers.start(report.COMPOSERD, command, server_cores))
        answers = await loads.record_answers(plain, JOB_TYPE)
        (scratch / "answers.json").write_bytes(msgspec.json.encode(answers))
        bare = stack.enter_context(servers.start(report.LIMIT, servers.limit(scratch / "answers.json"), server_cores))
        table = Table(disk.inspect(scratch).text())
        progress("waiting")
        for server in (bare, plain):
            await measure_waits(table, server, count)
        progress("asking again and again")
        await measure_asking(table, plain, count)
        progress("sending heartbeats")
        await measure_heartbeats(table, plain, bare, count)


def main() -> None:
    """Read the command line, and run the benchmark."""
    parser = parser_of("crowd", __doc__)
    parser.add_argument("--workers", type=int, default=10_000, help="number of workers (default: %(default)s)")
    options = parser.parse_args()
    if (allowed := raise_descriptors()) < (needed := options.workers + 500):
        sys.exit(
            f"{needed} open files are needed, but only {allowed} are allowed: raise ulimit -Hn or use fewer --workers"
        )
    with scratch_in(options.directory) as scratch:
        on_fastest_loop(run(scratch, options.workers))


if __name__ == "__main__":
    main()
