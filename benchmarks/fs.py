"""The fs driver with many jobs, without a server: `python -m benchmarks.fs`.

Each part runs in a process of its own, on storages of its own, and also measures the case that it compares with.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from benchmarks.program import SCRATCH
from benchmarks.store import (
    ARGS,
    BATCH,
    KEY,
    OTHER,
    idle,
    is_compacting,
    latencies,
    make_due,
    memory,
    needs_samples,
    on_copy,
    opened,
    postpone,
    rates,
    size_of,
    submit,
    work,
)
from benchmarks.table import Table, p99
from composerd.models import NewJob
from composerd_fs import FsDriver

FEW = 1_000
STEADY = 5_000
"""Number of jobs that are pending at once while a history is created."""
DELAY = 3600.0
STEP = 1_000
"""Limit of one call of `advance`, as the server uses it."""
STAY = 5
"""One of this many jobs is kept, the others are deleted."""


@asynccontextmanager
async def two(scratch: Path) -> AsyncIterator[tuple[FsDriver, FsDriver]]:
    """Open a storage with few jobs, and an empty one that the part fills."""
    async with opened(scratch / "few") as few, opened(scratch / "many") as many:
        await submit(few, FEW)
        yield few, many


async def compare(table: Table, few: FsDriver, many: FsDriver, what: str) -> float:
    """Compare the jobs a second of both storages after a checkpoint; return those of the storage with few jobs."""
    await idle(many)
    gc.freeze()
    with_few, with_many = await rates(few, many)
    table.figure(f"jobs/s onto {FEW:,} pending", with_few)
    table.figure(f"jobs/s {what}", with_many)
    table.at_least(0.9, "  ratio to few pending", with_many / with_few)
    return with_few


async def backlog(table: Table, scratch: Path, jobs: int) -> None:
    """Measure with many pending jobs, and during a checkpoint of them."""
    async with two(scratch) as (few, many):
        await submit(many, jobs)
        with_few = await compare(table, few, many, f"onto {jobs:,} pending")
        make_due(many)
        (during,) = await rates(many)
        table.figure("jobs/s while a checkpoint is taken", during)
        table.figure("  ratio to few pending", during / with_few)
        await idle(many)
        without = p99(await latencies(many, needs_samples))
        make_due(many)
        slowest = p99(await latencies(many, lambda taken: taken < 50 or (needs_samples(taken) and is_compacting(many))))
        table.figure("p99 of a submission", without * 1000, "ms")
        table.figure("p99 of a submission while a checkpoint is taken", slowest * 1000, "ms")
        table.at_most(3, "  ratio to without", slowest / without)


async def foreign(table: Table, scratch: Path, jobs: int) -> None:
    """Measure with many pending jobs of a type that no worker requests."""
    async with two(scratch) as (few, many):
        await submit(many, FEW)
        await submit(many, jobs, key=OTHER)
        await compare(table, few, many, f"with {jobs:,} foreign jobs pending, too")


async def delayed(table: Table, scratch: Path, jobs: int) -> None:
    """Measure with many delayed jobs, and while all of them become due at once."""
    async with two(scratch) as (few, many):
        await submit(many, FEW)
        await submit(many, jobs, delay=DELAY)
        await compare(table, few, many, f"beside {jobs:,} delayed jobs, too")
        await idle(many)
        without = p99(await latencies(many, needs_samples))
        await many.shift_clock(DELAY)
        began = time.perf_counter()
        becoming = asyncio.create_task(come_due(many))
        during = p99(await latencies(many, lambda taken: taken < 50 or not becoming.done()))
        ready, ended_at = await becoming
        if ready != jobs:
            sys.exit(f"only {ready} of {jobs} delayed jobs became ready")
        table.figure("delayed jobs that become ready a second, once due", ready / (ended_at - began))
        table.figure("p99 of a submission", without * 1000, "ms")
        table.figure("p99 of a submission while they become ready", during * 1000, "ms")
        table.figure("  ratio to without", during / without)


async def come_due(driver: FsDriver) -> tuple[int, float]:
    """Call `advance` like the server; return the number of jobs that became ready, and the time when it was done."""
    ready = 0
    while True:
        done = await driver.advance(STEP)
        ready += sum(done.news.ready.values())
        if done.news.due_in != 0:
            return ready, time.perf_counter()
        await asyncio.sleep(0)


async def ended(table: Table, scratch: Path, jobs: int) -> None:
    """Measure with many ended jobs, and a start with them."""
    async with two(scratch) as (few, many):
        for _ in range(0, jobs, STEADY):
            await submit(many, STEADY)
            await work(many, STEADY)
        await submit(many, FEW)
        await compare(table, few, many, f"onto as many, with {jobs:,} ended")
        await work(many, FEW)
        await idle(many)
        stored = sum((await many.info()).jobs.values())
    started(table, scratch / "many", stored, "ended", seconds=5, each=300)


async def pending(table: Table, scratch: Path, jobs: int) -> None:
    """Measure a start with many pending jobs."""
    async with opened(scratch) as driver:
        await submit(driver, jobs)
        await idle(driver)
        stored = sum((await driver.info()).jobs.values())
    started(table, scratch, stored, "pending", seconds=10, each=700)


def started(table: Table, directory: Path, jobs: int, state: str, *, seconds: float, each: float) -> None:
    """Start the storage in a new process, and print what it took."""
    completed = subprocess.run(
        [sys.executable, "-m", "benchmarks.fs", "--start", str(directory)], capture_output=True, text=True, check=True
    )
    found = json.loads(completed.stdout)
    table.at_most(seconds, f"start with {jobs:,} {state}", found["seconds"], "s")
    table.at_most(each, "  memory a job", found["bytes"] / jobs, "B")
    table.at_most(2, "  ratio of file size to live data", size_of(directory) / ((len(ARGS) + 200) * jobs))


async def start(directory: Path) -> None:
    """Start a storage, and print the seconds and the bytes of memory that it took as JSON."""
    before = memory()
    began = time.perf_counter()
    async with opened(directory):
        print(json.dumps({"seconds": time.perf_counter() - began, "bytes": memory() - before}))


async def compaction(table: Table, scratch: Path, jobs: int) -> None:
    """Measure single submissions while payloads are copied from segments that are mostly dead."""
    async with opened(scratch) as driver:
        postpone(driver)
        for _ in range(0, jobs, BATCH):
            keys = [OTHER if number % STAY == 0 else KEY for number in range(BATCH)]
            await driver.enqueue([[NewJob(id=uuid4(), type=key.type, args=ARGS)] for key in keys])
            await driver.delete(await work(driver, BATCH))
        gc.freeze()
        before = size_of(scratch)
        took = await latencies(driver, needs_samples)
        copied: list[int] = []
        begun = asyncio.Event()

        def note(count: int) -> None:
            copied.append(count)
            begun.set()

        on_copy(driver, note)
        make_due(driver)
        await driver.enqueue([[NewJob(id=uuid4(), type=OTHER.type)]])
        await asyncio.wait_for(begun.wait(), 300)
        during = await latencies(driver, lambda _taken: is_compacting(driver))
        if len(during) < 100:
            sys.exit(
                f"the compaction copied {sum(copied)} payloads and ended after {len(during)} submissions, "
                "which is too few to measure: use more --jobs"
            )
        table.figure("payloads that the compaction copied", sum(copied))
        table.figure("  ratio of file size after it to before", size_of(scratch) / before)
        took += await latencies(driver, needs_samples)
        table.figure("p99 of a submission", p99(took) * 1000, "ms")
        table.figure("p99 of a submission while payloads are copied", p99(during) * 1000, "ms")
        table.at_most(3, "  ratio to without", p99(during) / p99(took))


PARTS: Mapping[str, Callable[[Table, Path, int], Awaitable[None]]] = {
    part.__name__: part for part in (backlog, foreign, delayed, ended, pending, compaction)
}


async def measure(part: str, jobs: int) -> None:
    """Measure a part, and print its rows."""
    table = Table("", f"{part}: {(PARTS[part].__doc__ or '').strip()}")
    with tempfile.TemporaryDirectory(prefix="composerd-benchmark-", dir=SCRATCH) as scratch:
        await PARTS[part](table, Path(scratch), jobs)


def main() -> None:
    """Read the command line; measure one part, or several parts in a process each, or start a storage for a part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="number of jobs to store (default: %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(PARTS),
        default=list(PARTS),
        metavar="PART",
        help=f"parts to measure: {', '.join(PARTS)}",
    )
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    gc.set_threshold(50_000, 20, 50)  # like the server
    if given.start is not None:
        asyncio.run(start(given.start))
    elif len(given.only) == 1:
        asyncio.run(measure(given.only[0], given.jobs))
    else:
        for part in given.only:
            command = [sys.executable, "-m", "benchmarks.fs", "--jobs", str(given.jobs), "--only", part]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
