"""Compare the CPU time of two installed versions of composerd: `python -m benchmarks.versions OLD NEW`."""

import contextlib
import statistics
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from benchmarks import loads, servers
from benchmarks.client import open_all
from benchmarks.program import on_fastest_loop, parser_of, pin, progress, raise_descriptors, scratch_in

JOB_TYPE = "benchmark"
JOBS = 2_000
"""The jobs that one round submits and then completes."""
BACKLOG = 2_000

SUBMIT = "submit"
WORK = "request + finish"


async def measure(scratch: Path, scripts: Sequence[str], options: Namespace) -> dict[str, list[float]]:
    """Start both versions and load them alternately; return the CPU microseconds an operation of each, by operation."""
    cores = pin()
    with contextlib.ExitStack() as stack:
        targets = []
        for number, script in enumerate(scripts):
            command = [script, *servers.composerd(scratch / str(number))[1:]]
            targets.append(stack.enter_context(servers.start(f"version {number}", command, cores)))
        pools = [await open_all(target.host, target.port, options.connections) for target in targets]
        for target in targets:
            await loads.fill(target, JOB_TYPE, BACKLOG)
        samples: list[dict[str, list[loads.Sample]]] = [{SUBMIT: [], WORK: []} for _ in targets]
        for round_number in range(options.rounds + 1):
            order = range(len(targets)) if round_number % 2 else reversed(range(len(targets)))
            for index in order:
                load = loads.Load(targets[index], pools[index], JOB_TYPE)
                submitted, worked = await load.submit(JOBS), await load.work(JOBS)
                if round_number:  # the first warms up
                    samples[index][SUBMIT].append(submitted)
                    samples[index][WORK].append(worked)
        for pool in pools:
            for connection in pool:
                connection.close()
    return {operation: [_cpu(one[operation]) for one in samples] for operation in (SUBMIT, WORK)}


def _cpu(samples: Sequence[loads.Sample]) -> float:
    return 1e6 * sum(one.server_cpu for one in samples) / sum(one.operations for one in samples)


async def run(scratch: Path, scripts: Sequence[str], options: Namespace) -> None:
    """Measure several starts of both versions, and print each and the median ratio."""
    ratios: dict[str, list[float]] = {SUBMIT: [], WORK: []}
    print(f"{'CPU an operation':18} {'old':>9} {'new':>9} {'new to old':>11}")
    for start in range(options.starts):
        progress(f"start {start + 1} of {options.starts}")
        for operation, (old, new) in (await measure(scratch / str(start), scripts, options)).items():
            ratios[operation].append(new / old)
            print(f"{operation:18} {old:6.1f} µs {new:6.1f} µs {new / old:11.2f}")
    for operation, found in ratios.items():
        print(f"{operation:18} {'median of the starts':>19} {statistics.median(found):11.2f}")


def main() -> None:
    """Read the command line, and measure."""
    parser = parser_of("versions", __doc__)
    parser.add_argument("old", help="the `composerd` script of the older version's environment")
    parser.add_argument("new", help="the `composerd` script of the newer version's environment")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each start (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=5, help="starts of both servers (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=128, help="connections of the load (default: %(default)s)")
    options = parser.parse_args()
    raise_descriptors()
    with scratch_in(options.directory) as scratch:
        on_fastest_loop(run(scratch, (options.old, options.new), options))


if __name__ == "__main__":
    main()
