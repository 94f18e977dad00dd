"""Speed of composerd on file systems, as ratios to ext4: `python -m benchmarks.filesystems` (as root, to mount them).

Each file system is in an image on the same disk, except tmpfs. An own server runs on each, and all get the same load in
turn, round by round.
"""

import contextlib
import os
import subprocess
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks import disk, loads, servers
from benchmarks.client import open_all
from benchmarks.program import on_fastest_loop, parser_of, pin, progress, raise_descriptors, scratch_in

FIRST = "ext4"
"""The file system that the others are compared with."""
KINDS = (FIRST, "xfs", "btrfs", "btrfs, zstd", "overlay on ext4", "tmpfs")
SIZE = 2 * 1024**3
"""Size in bytes of each image, which is sparse."""

JOB_TYPE = "benchmark"
JOBS = 1500
HANDOVERS = 50
WAITERS = 10

_MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-m0", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
}


@contextlib.contextmanager
def mounted(kind: str, scratch: Path) -> Iterator[Path]:
    """Make a file system of a kind, and mount it for the block."""
    at = scratch / kind.replace(", ", "-").replace(" ", "-")
    at.mkdir()
    with contextlib.ExitStack() as stack:
        if kind == "tmpfs":
            stack.enter_context(_mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", at))
        elif kind == "overlay on ext4":
            below = stack.enter_context(mounted("ext4", _made(scratch / "below")))
            lower, upper, work = [_made(below / name) for name in ("lower", "upper", "work")]
            layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
            stack.enter_context(_mount("-t", "overlay", "-o", layers, "overlay", at))
        else:
            image = at.with_suffix(".image")
            with image.open("wb") as file:
                file.truncate(SIZE)
            _run(*_MKFS[kind.partition(",")[0]], image)
            stack.enter_context(_mount("-o", "loop,compress=zstd" if "zstd" in kind else "loop", image, at))
        yield at


@contextlib.contextmanager
def _mount(*arguments: str | Path) -> Iterator[None]:
    _run("mount", *arguments)
    try:
        yield
    finally:
        _run("umount", arguments[-1])


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _run(*command: str | Path) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})


async def run(scratch: Path, kinds: Sequence[str], options: Namespace) -> None:
    """Measure the file systems, and print a table in Markdown."""
    cores = pin()
    submits: dict[str, list[float]] = {kind: [] for kind in kinds}
    works: dict[str, list[float]] = {kind: [] for kind in kinds}
    handovers: dict[str, list[float]] = {kind: [] for kind in kinds}
    syncs: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        targets = {}
        for kind in kinds:
            directory = stack.enter_context(mounted(kind, scratch))
            syncs[kind] = disk.inspect(directory).sync_seconds
            targets[kind] = stack.enter_context(servers.start(kind, servers.composerd(directory / "storage"), cores))
        pools = {
            kind: await open_all(target.host, target.port, options.connections) for kind, target in targets.items()
        }
        for number in range(options.rounds + 1):
            progress(f"round {number} of {options.rounds}")
            for kind in kinds if number % 2 else [*reversed(kinds)]:
                load = loads.Load(targets[kind], pools[kind], JOB_TYPE)
                submitted, worked = await load.submit(JOBS), await load.work(JOBS)
                took = await loads.handover(targets[kind], JOB_TYPE, WAITERS, HANDOVERS)
                if number:  # the first round warms up
                    submits[kind].append(loads.rate([submitted]))
                    works[kind].append(loads.rate([worked]))
                    handovers[kind].append(median(took))
        for pool in pools.values():
            for connection in pool:
                connection.close()
    print(f"load average: {os.getloadavg()[0]:.1f}\n")
    print("| file system | submit | request + finish | handover | 1 KiB and fdatasync |")
    print("|---|---|---|---|---|")
    for kind in kinds:
        ratios = [_ratio(found[kind], found[kinds[0]]) for found in (submits, works)]
        slower = f"{_ratio(handovers[kind], handovers[kinds[0]]):.2f} ({1000 * median(handovers[kind]):.1f} ms)"
        print(f"| {kind} | {ratios[0]:.2f} | {ratios[1]:.2f} | {slower} | {1000 * syncs[kind]:.2f} ms |")


def _ratio(found: Sequence[float], first: Sequence[float]) -> float:
    return median(one / other for one, other in zip(found, first, strict=True))


def main() -> None:
    """Read the command line, and measure."""
    parser = parser_of("filesystems", __doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds on each file system (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="connections of the load (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=KINDS[1:], default=KINDS[1:], help=f"compare these with {FIRST}")
    options = parser.parse_args()
    raise_descriptors()
    with scratch_in(options.directory) as scratch:
        on_fastest_loop(run(scratch, [FIRST, *options.only], options))


if __name__ == "__main__":
    main()
