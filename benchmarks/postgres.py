"""The PostgreSQL driver, alone and in servers that share a database: `python -m benchmarks.postgres`.

It starts a temporary PostgreSQL with fsync on. `spine --postgres` compares this driver with the fs driver over HTTP.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from statistics import median
from uuid import uuid4

import psycopg2

from benchmarks import limit, loads, servers
from benchmarks.client import Connection, open_all
from benchmarks.database import database
from benchmarks.program import on_fastest_loop, pin, raise_descriptors
from benchmarks.servers import Server
from benchmarks.table import Table
from benchmarks.workers import Waiters
from composerd.models import Claim, Key, NewJob, Outcome
from composerd_postgres import PostgresDriver
from tests.throwaway import Throwaway

KEY = Key("", "benchmark", None)
ARGS = b'{"n":1}'
BATCH = 1000
FEW = 1_000
DEAD = 150_000
SINGLES = 300
"""Number of claims in a round."""
ROUNDS = 7
BATCH_OF_CLAIMS = 50
HANDOVERS = 200
CONNECTIONS = 32
UNSEEN = "10m"
"""The sweep interval of servers whose periodic work must not be counted."""


@contextlib.asynccontextmanager
async def opened(postgres: Throwaway, count: int) -> AsyncIterator[list[PostgresDriver]]:
    """Open this many drivers, each on an empty storage of its own in one database."""
    drivers = [PostgresDriver.from_url(postgres.fresh()) for _ in range(count)]
    try:
        for driver in drivers:
            await driver.start()
        yield drivers
    finally:
        for driver in drivers:
            await driver.close()


async def submit(driver: PostgresDriver, count: int) -> None:
    """Store this many jobs, each in a submission of its own."""
    for begin in range(0, count, BATCH):
        await driver.enqueue([[_job()] for _ in range(min(BATCH, count - begin))])


async def work(driver: PostgresDriver, count: int) -> None:
    """Claim and finish this many jobs, many at a time."""
    for begin in range(0, count, BATCH):
        claimed = (await driver.claim([_claim() for _ in range(min(BATCH, count - begin))], 2**40)).items
        await driver.finish([Outcome(one.token, b"{}") for one in claimed if one is not None])


async def claims(driver: PostgresDriver, count: int, at_once: int = 1) -> Sequence[float]:
    """Return the seconds of this many calls that claim `at_once` jobs each, then submit as many new jobs."""
    took = []
    for _ in range(count):
        batch = [_claim() for _ in range(at_once)]
        began = time.perf_counter()
        answers = (await driver.claim(batch, 2**40)).items
        took.append(time.perf_counter() - began)
        if None in answers or len(answers) < at_once:
            sys.exit("a claim got no job")
    await submit(driver, count * at_once)
    return took


def _job() -> NewJob:
    return NewJob(id=uuid4(), type=KEY.type, args=ARGS)


def _claim() -> Claim:
    return Claim(uuid4(), (KEY,), 3600.0)


def vacuum(postgres: Throwaway) -> None:
    """Vacuum and analyze all tables, as autovacuum does sooner or later."""
    postgres.sql("VACUUM ANALYZE")


async def compare(
    drivers: Sequence[PostgresDriver], measure: Callable[[PostgresDriver], Awaitable[float]]
) -> list[list[float]]:
    """Measure the drivers in turn, round by round, so that a disturbance affects all; the first round warms up."""
    found: list[list[float]] = [[] for _ in drivers]
    for number in range(ROUNDS + 1):
        for driver, rounds in zip(drivers, found, strict=True):
            value = await measure(driver)
            if number > 0:
                rounds.append(value)
    return found


def ratio(many: Sequence[float], few: Sequence[float]) -> float:
    """Return the median of the ratios of each round."""
    return median(a / b for a, b in zip(many, few, strict=True))


async def _claim_time(driver: PostgresDriver) -> float:
    return median(await claims(driver, SINGLES))


async def dead(table: Table, postgres: Throwaway, _jobs: int) -> None:
    """Measure claims while a foreign transaction keeps vacuum from removing rows of earlier claims."""
    async with opened(postgres, 2) as (clean, littered):
        for driver in (clean, littered):
            await submit(driver, FEW)
        vacuum(postgres)
        holder = psycopg2.connect(host=str(postgres.directory), user="tests", dbname="postgres")
        with contextlib.closing(holder), holder.cursor() as cursor:
            cursor.execute("SELECT txid_current()")
            await submit(littered, DEAD)
            await work(littered, DEAD)
            without, within = await compare((clean, littered), _claim_rate)
            table.figure("claims a second", median(without))
            table.figure(f"claims a second with {DEAD:,} dead rows in front", median(within))
            table.at_least(0.4, "  ratio to without", ratio(within, without))


async def _claim_rate(driver: PostgresDriver) -> float:
    took = await claims(driver, SINGLES)
    return len(took) / sum(took)


async def backlog(table: Table, postgres: Throwaway, jobs: int) -> None:
    """Measure single claims with few and with many jobs ready."""
    sizes = (FEW, jobs // 10, jobs)
    async with opened(postgres, len(sizes)) as drivers:
        for driver, size in zip(drivers, sizes, strict=True):
            await submit(driver, size)
        vacuum(postgres)
        found = await compare(drivers, _claim_time)
        for size, times in zip(sizes, found, strict=True):
            table.figure(f"a claim with {size:,} ready", median(times) * 1e3, "ms")
        table.at_most(1.2, "  ratio of the last to the first", ratio(found[-1], found[0]))


async def ended(table: Table, postgres: Throwaway, jobs: int) -> None:
    """Measure single claims with and without many ended jobs."""
    async with opened(postgres, 2) as (young, old):
        for _ in range(0, jobs, 10 * BATCH):
            await submit(old, 10 * BATCH)
            await work(old, 10 * BATCH)
        for driver in (young, old):
            await submit(driver, FEW)
        vacuum(postgres)
        without, within = await compare((young, old), _claim_time)
        table.figure("a claim", median(without) * 1e3, "ms")
        table.figure(f"a claim with {jobs:,} ended", median(within) * 1e3, "ms")
        table.at_most(1.2, "  ratio to without", ratio(within, without))
        began = time.perf_counter()
        await old.info()
        table.figure(
            "the query of `storage info` and `/metrics`, with as many", (time.perf_counter() - began) * 1e3, "ms"
        )


async def batches(table: Table, postgres: Throwaway, _jobs: int) -> None:
    """Measure many claims in one statement."""
    async with opened(postgres, 2) as (single, batched):
        for driver in (single, batched):
            await submit(driver, 10 * FEW)
        vacuum(postgres)

        async def rate(driver: PostgresDriver) -> float:
            at_once = 1 if driver is single else BATCH_OF_CLAIMS
            took = await claims(driver, 6 * SINGLES // at_once // 6, at_once)
            return at_once * len(took) / sum(took)

        alone, together = await compare((single, batched), rate)
        table.figure("jobs a second, claimed one by one", median(alone))
        table.figure(f"jobs a second, claimed {BATCH_OF_CLAIMS} at a time", median(together))
        table.at_least(10, "  ratio to one by one", ratio(together, alone))


@contextlib.contextmanager
def two_servers(postgres: Throwaway, waits: int) -> Iterator[tuple[Server, Server]]:
    """Start two servers on one storage, with a sweep interval that is longer than the measurement."""
    url = postgres.fresh()
    cores = pin()
    with contextlib.ExitStack() as stack:
        command = servers.composerd(url, waits + 500, "--sweep-interval", UNSEEN)
        first, second = (stack.enter_context(servers.start(name, command, cores)) for name in ("A", "B"))
        yield first, second


async def handover(table: Table, postgres: Throwaway, _jobs: int) -> None:
    """Measure from the submission to one server until a worker that waits at another server has the job."""
    with two_servers(postgres, 100) as (first, second):
        for name, at in (("the same server", first), ("another server", second)):
            took = await loads.handover(at, limit.HANDOVER, 10, HANDOVERS, submit_to=first)
            row = f"handover p50 to a worker at {name}"
            if at is first:
                table.figure(row, median(took) * 1e3, "ms")
            else:
                table.at_most(5, row, median(took) * 1e3, "ms")


async def crowd(table: Table, postgres: Throwaway, _jobs: int) -> None:
    """Count the claims that one job causes with 10,000 waits at two servers."""
    count = 5_000
    with two_servers(postgres, count) as both:
        waiters = [Waiters(server, KEY.type, count) for server in both]
        for one in waiters:
            one.may_finish.clear()
            await one.come()
        controls = [await Connection.open(server.host, server.port) for server in both]
        before = [await loads.value_of(control, CLAIMS) for control in controls]
        await controls[0].send(loads.submit_request(KEY.type), 201)
        await asyncio.wait(
            [asyncio.create_task(one.arrived.get()) for one in waiters], return_when=asyncio.FIRST_COMPLETED
        )
        await asyncio.sleep(1)
        for server, control, earlier in zip(both, controls, before, strict=True):
            table.at_most(
                1, f"claims of server {server.name} for one job", await loads.value_of(control, CLAIMS) - earlier
            )
        for one in waiters:
            await one.leave()


async def processes(table: Table, postgres: Throwaway, _jobs: int) -> None:
    """Measure jobs through one server with one process and with two, which share the cores with load and database."""
    cores = os.sched_getaffinity(0)
    table.figure("cores", len(cores))
    with contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(
                servers.start(name, servers.composerd(postgres.fresh(), 2000, "--processes", name), cores)
            )
            for name in ("1", "2")
        ]
        pools = [await open_all(server.host, server.port, CONNECTIONS) for server in targets]
        rates: dict[tuple[str, str], list[float]] = {}
        for number in range(ROUNDS + 1):
            for server, connections in zip(targets, pools, strict=True):
                load = loads.Load(server, connections, KEY.type)
                for what, sample in (
                    ("submit", await load.submit(2 * FEW)),
                    ("request + finish", await load.work(2 * FEW)),
                ):
                    if number > 0:
                        rates.setdefault((what, server.name), []).append(loads.rate([sample]))
        for connection in (one for pool in pools for one in pool):
            connection.close()
    for (what, name), found in rates.items():
        table.figure(f"{what} a second, {name} process{'es' if name != '1' else ''}", median(found))
    for what in ("submit", "request + finish"):
        table.figure(f"  {what}, ratio of two processes to one", ratio(rates[what, "2"], rates[what, "1"]))


CLAIMS = 'composerd_storage_seconds_count{method="claim"}'

PARTS: Mapping[str, Callable[[Table, Throwaway, int], Awaitable[None]]] = {
    part.__name__: part for part in (dead, backlog, ended, batches, handover, crowd, processes)
}


async def run(parts: Sequence[str], jobs: int) -> None:
    """Measure each part, and print its rows."""
    cores = os.sched_getaffinity(0)
    for part in parts:
        os.sched_setaffinity(0, cores)  # the part before may have pinned this process to one core
        with database() as postgres:
            await PARTS[part](Table("", f"{part}: {(PARTS[part].__doc__ or '').strip()}"), postgres, jobs)


def main() -> None:
    """Read the command line, and run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="number of jobs to store (default: %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(PARTS),
        default=list(PARTS),
        metavar="PART",
        help=f"parts to measure: {', '.join(PARTS)}",
    )
    given = parser.parse_args()
    raise_descriptors()
    on_fastest_loop(run(given.only, given.jobs))


if __name__ == "__main__":
    main()
