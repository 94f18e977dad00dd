"""Speed of a job through composerd, compared with a bare aiohttp application: `python -m benchmarks.spine`."""

import asyncio
import contextlib
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from benchmarks import credentials, disk, limit, loads, report, servers
from benchmarks.client import open_all
from benchmarks.program import on_fastest_loop, parser_of, pin, progress, raise_descriptors, scratch_in

if TYPE_CHECKING:
    from tests.throwaway import Throwaway

BACKLOG = 3_000
FOREIGN_JOBS = 100_000
CONNECTIONS = 128
"""Number of connections; enough to keep a server's core busy while half of them wait for a flush."""
WAITERS = (10, 1_000)
ROUND = 2_000
"""Number of jobs that are submitted and finished in a round; the backlog is BACKLOG on average."""
HANDOVERS = 100
"""Number of handovers in a round, for each number of waiters."""

JOB_TYPE = "benchmark"
FOREIGN_TYPE = "foreign"


async def measure_throughput(
    targets: Sequence[servers.Server], rounds: int, connections: int
) -> list[report.Throughput]:
    """Put the same load on the servers in turn, round by round, so that a disturbance affects all of them."""
    found: dict[tuple[str, str], list[loads.Sample]] = {
        (operation, server.name): [] for operation in (report.SUBMIT, report.WORK) for server in targets
    }
    pools = {server: await open_all(server.host, server.port, connections, server.token) for server in targets}
    for number in range(rounds + 1):
        for server, pool in pools.items():
            load = loads.Load(server, pool, JOB_TYPE)
            submitted, worked = await load.submit(ROUND), await load.work(ROUND)
            if number > 0:  # the first round warms up
                found[report.SUBMIT, server.name].append(submitted)
                found[report.WORK, server.name].append(worked)
    for pool in pools.values():
        for connection in pool:
            connection.close()
    return [report.Throughput(operation, name, samples) for (operation, name), samples in found.items()]


async def measure_handover(targets: Sequence[servers.Server], rounds: int) -> list[report.Handover]:
    """Measure handovers with few and with many waiting workers on the servers in turn, round by round."""
    found: dict[tuple[str, int], list[Sequence[float]]] = {
        (server.name, waiters): [] for server in targets for waiters in WAITERS
    }
    for _ in range(rounds):
        for server in targets:
            for waiters in WAITERS:
                found[server.name, waiters].append(await loads.handover(server, limit.HANDOVER, waiters, HANDOVERS))
    return [report.Handover(name, waiters, samples) for (name, waiters), samples in found.items()]


async def run(scratch: Path, rounds: int, connections: int, *, postgres: bool, identities: bool) -> report.Report:
    """Start the servers, fill their backlogs, measure them, and return the report."""
    server_cores = pin()
    with contextlib.ExitStack() as stack:
        progress("filling the backlogs")
        plain, foreign = (
            stack.enter_context(servers.start(name, servers.composerd(scratch / path), server_cores))
            for name, path in ((report.COMPOSERD, "plain"), (report.FOREIGN, "foreign"))
        )
        (scratch / "answers.json").write_bytes(msgspec.json.encode(await loads.record_answers(plain, JOB_TYPE)))
        warm, bare = (
            stack.enter_context(servers.start(name, command(scratch / "answers.json"), server_cores))
            for name, command in ((report.LIMIT, servers.limit), (report.BARE, servers.bare))
        )
        await loads.fill(foreign, FOREIGN_TYPE, FOREIGN_JOBS)
        composerds = [plain, foreign]
        if postgres:
            url = stack.enter_context(_database(scratch)).fresh()
            composerds.append(stack.enter_context(servers.start(report.POSTGRES, servers.composerd(url), server_cores)))
        secured = []
        if identities:
            for name, made in (
                (report.TOKENS, credentials.opaque),
                (report.RS256, credentials.rs256),
                (report.ES256, credentials.es256),
            ):
                own = made(scratch)
                command = servers.composerd(scratch / made.__name__, 4000, *own.options)
                secured.append(stack.enter_context(servers.start(name, command, server_cores, own.token)))
        for server in (*composerds, *secured):
            await loads.fill(server, JOB_TYPE, BACKLOG - ROUND // 2)
        progress("measuring throughput")
        throughput = await measure_throughput([warm, bare, *composerds, *secured], rounds, connections)
        progress("measuring handover")
        handover = await measure_handover([warm, plain, *composerds[2:]], rounds)
    return report.Report(
        {
            "composerd": metadata.version("composerd"),
            "aiohttp": metadata.version("aiohttp"),
            platform.python_implementation(): platform.python_version(),
            "load on": type(asyncio.get_running_loop()).__module__.partition(".")[0],
            "cores": f"{len(server_cores)} for the servers, 1 for the load",
            "connections": connections,
            "rounds": rounds,
        },
        disk.inspect(scratch),
        throughput,
        handover,
    )


def _database(scratch: Path) -> contextlib.AbstractContextManager["Throwaway"]:
    from benchmarks.database import database  # noqa: PLC0415  # needs composerd[postgres]

    return database(str(scratch.parent))  # the account of PostgreSQL may enter it


def main() -> None:
    """Read the command line, run the benchmark, and print the report."""
    parser = parser_of("spine", __doc__)
    parser.add_argument(
        "--rounds", type=int, default=15, help="number of rounds of each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--connections",
        type=int,
        default=CONNECTIONS,
        help="number of connections of the load, all busy at once (default: %(default)s)",
    )
    parser.add_argument("--postgres", action="store_true", help="also measure composerd on PostgreSQL")
    parser.add_argument("--identities", action="store_true", help="also measure composerd with a token on each request")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples to this file")
    options = parser.parse_args()
    raise_descriptors()
    chosen = {"postgres": options.postgres, "identities": options.identities}
    with scratch_in(options.directory) as scratch:
        result = on_fastest_loop(run(scratch, options.rounds, options.connections, **chosen))
    print(result.text())
    if options.json:
        options.json.write_bytes(result.json())


if __name__ == "__main__":
    main()
