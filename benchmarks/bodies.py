"""Throughput of jobs with large args, compared with a bare aiohttp application: `python -m benchmarks.bodies`.

The args are a manifest of a real build, repeated until they have about 0.5, 1 and 2 MB.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from benchmarks import disk, loads, report, servers
from benchmarks.client import open_all
from benchmarks.program import on_fastest_loop, parser_of, pin, progress, raise_descriptors, scratch_in
from benchmarks.servers import Server
from benchmarks.table import Table

MANIFEST = Path(__file__).parents[1] / "tests/data/manifests/fedora_38-aarch64-ami.json"
REPEATED = (2, 4, 8)
"""Numbers of copies of the manifest, which has 0.24 MB, in the args."""
CONNECTIONS = 8
ROUND = 64_000_000
"""Bytes of args in a round."""
JOB_TYPE = "large"
MB = 1_000_000


def args_of(times: int) -> bytes:
    """Return args that contain the manifest this many times."""
    manifest = MANIFEST.read_bytes().strip()
    return b'{"manifests":[' + b",".join([manifest] * times) + b"]}"


async def measure(table: Table, bare: Server, plain: Server, args: bytes, rounds: int) -> None:
    """Put the same load on both servers in turn, round by round; the first round warms up."""
    count = max(ROUND // len(args), CONNECTIONS)
    found: dict[tuple[str, str], list[loads.Sample]] = {}
    pools = {server: await open_all(server.host, server.port, CONNECTIONS) for server in (bare, plain)}
    for number in range(rounds + 1):
        for server, pool in pools.items():
            load = loads.Load(server, pool, JOB_TYPE, args)
            submitted, worked = await load.submit(count), await load.work(count)
            if number > 0:
                found.setdefault((report.SUBMIT, server.name), []).append(submitted)
                found.setdefault((report.WORK, server.name), []).append(worked)
    for pool in pools.values():
        for connection in pool:
            connection.close()
    table.figure("args of", len(args) / MB, "MB")
    for operation in (report.SUBMIT, report.WORK):
        limit, composerd = (
            report.Throughput(operation, server.name, found[operation, server.name]) for server in pools
        )
        for each in (limit, composerd):
            table.figure(f"  {operation}, {each.server}", each.rate * len(args) / MB, "MB/s")
            table.figure("    CPU an operation", each.cpu * 1e3, "ms")
            table.figure("    load busy", each.load_busy * 100, "%")
        table.figure(f"  {operation}, composerd to the limit", report.rates(composerd, limit))
        table.figure(f"  {operation}, CPU of the limit to composerd's", limit.cpu / composerd.cpu)
    table.figure("  submit, request and finish, composerd to the limit", median(_whole(found)))


def _whole(found: dict[tuple[str, str], list[loads.Sample]]) -> Sequence[float]:
    """Return the ratio of composerd's speed to the limit's for each round, with all three requests of a job."""
    seconds = {
        name: [
            submitted.seconds + worked.seconds
            for submitted, worked in zip(found[report.SUBMIT, name], found[report.WORK, name], strict=True)
        ]
        for name in (report.LIMIT, report.COMPOSERD)
    }
    return [a / b for a, b in zip(seconds[report.LIMIT], seconds[report.COMPOSERD], strict=True)]


async def run(scratch: Path, rounds: int) -> None:
    """Start composerd, and for each size a limit that answers with args of that size, and measure them."""
    server_cores = pin()
    with servers.start(report.COMPOSERD, servers.composerd(scratch / "storage"), server_cores) as plain:
        table = Table(
            disk.inspect(scratch).text(),
            f"sequential writes with fdatasync, 16 MiB at a time: {disk.speed(scratch) / MB:.0f} MB/s",
        )
        for times in REPEATED:
            args = args_of(times)
            progress(f"args of {len(args) / MB:.2f} MB")
            answers = scratch / f"{times}.json"
            answers.write_bytes(msgspec.json.encode(await loads.record_answers(plain, JOB_TYPE, args)))
            with contextlib.ExitStack() as stack:
                bare = stack.enter_context(servers.start(report.LIMIT, servers.limit(answers), server_cores))
                await measure(table, bare, plain, args, rounds)


def main() -> None:
    """Read the command line, and run the benchmark."""
    parser = parser_of("bodies", __doc__)
    parser.add_argument(
        "--rounds", type=int, default=7, help="number of rounds of each measurement (default: %(default)s)"
    )
    options = parser.parse_args()
    raise_descriptors()
    with scratch_in(options.directory) as scratch:
        on_fastest_loop(run(scratch, options.rounds))


if __name__ == "__main__":
    main()
