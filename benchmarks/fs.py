"""How the fs driver behaves with many jobs, without a server around it: `python -m benchmarks.fs`.

Each part is a process of its own, on a storage of its own, and measures what it compares with beside it. `--jobs` is
how many are stored, a million by default; `--only` names parts.
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
    keeps,
    latencies,
    make_due,
    memory,
    on_copy,
    opened,
    put_off,
    rates,
    settled,
    size_of,
    so_many,
    submit,
    work,
)
from benchmarks.table import Table, p99
from composerd.models import NewJob
from composerd_fs import FsDriver

FEW = 1_000
STEADY = 5_000
"""Jobs that are pending at once while a history is made."""
DELAY = 3600.0
STEP = 1_000
"""How much the server lets become due in one call."""
STAY = 5
"""One job of so many stays, where most are deleted."""


@asynccontextmanager
async def two(scratch: Path) -> AsyncIterator[tuple[FsDriver, FsDriver]]:
    """A storage with few jobs, and one to be filled."""
    async with opened(scratch / "few") as few, opened(scratch / "many") as many:
        await submit(few, FEW)
        yield few, many


async def compare(table: Table, few: FsDriver, many: FsDriver, what: str) -> float:
    """Work on both, once a checkpoint of what was filled is taken; jobs a second beside few."""
    await settled(many)
    gc.freeze()
    with_few, with_many = await rates(few, many)
    table.figure(f"jobs/s onto {FEW:,} pending", with_few)
    table.figure(f"jobs/s {what}", with_many)
    table.at_least(0.9, "  to those onto few", with_many / with_few)
    return with_few


async def backlog(table: Table, scratch: Path, jobs: int) -> None:
    """Many pending jobs, and a checkpoint of them."""
    async with two(scratch) as (few, many):
        await submit(many, jobs)
        with_few = await compare(table, few, many, f"onto {jobs:,} pending")
        make_due(many)
        (during,) = await rates(many)
        table.figure("jobs/s while a checkpoint is taken", during)
        table.figure("  to those onto few", during / with_few)
        await settled(many)
        without = p99(await latencies(many, so_many))
        make_due(many)
        slowest = p99(await latencies(many, lambda taken: taken < 50 or (so_many(taken) and keeps(many))))
        table.figure("p99 of a submission", without * 1000, "ms")
        table.figure("p99 of a submission while a checkpoint is taken", slowest * 1000, "ms")
        table.at_most(3, "  to that without", slowest / without)


async def foreign(table: Table, scratch: Path, jobs: int) -> None:
    """Many pending jobs that no worker here asks for."""
    async with two(scratch) as (few, many):
        await submit(many, FEW)
        await submit(many, jobs, key=OTHER)
        await compare(table, few, many, f"with {jobs:,} foreign jobs pending, too")


async def delayed(table: Table, scratch: Path, jobs: int) -> None:
    """Many jobs whose time has not come, and then comes for all of them at once."""
    async with two(scratch) as (few, many):
        await submit(many, FEW)
        await submit(many, jobs, delay=DELAY)
        await compare(table, few, many, f"beside {jobs:,} delayed jobs, too")
        await settled(many)
        without = p99(await latencies(many, so_many))
        await many.shift_clock(DELAY)
        began = time.perf_counter()
        becoming = asyncio.create_task(come_due(many))
        during = p99(await latencies(many, lambda taken: taken < 50 or not becoming.done()))
        ready, ended_at = await becoming
        if ready != jobs:
            sys.exit(f"of {jobs} delayed jobs {ready} became ready")
        table.figure("delayed jobs that become ready a second, once due", ready / (ended_at - began))
        table.figure("p99 of a submission", without * 1000, "ms")
        table.figure("p99 of a submission while they become ready", during * 1000, "ms")
        table.figure("  to that without", during / without)


async def come_due(driver: FsDriver) -> tuple[int, float]:
    """Let time pass as the server does; how many jobs became ready, and when that was done."""
    ready = 0
    while True:
        done = await driver.advance(STEP)
        ready += sum(done.news.ready.values())
        if done.news.due_in != 0:
            return ready, time.perf_counter()
        await asyncio.sleep(0)


async def ended(table: Table, scratch: Path, jobs: int) -> None:
    """A long history of jobs that came and went, and a start with it."""
    async with two(scratch) as (few, many):
        for _ in range(0, jobs, STEADY):
            await submit(many, STEADY)
            await work(many, STEADY)
        await submit(many, FEW)
        await compare(table, few, many, f"onto as many, with {jobs:,} ended")
        await work(many, FEW)
        await settled(many)
        stored = sum((await many.info()).jobs.values())
    started(table, scratch / "many", stored, "ended", seconds=5, each=300)


async def pending(table: Table, scratch: Path, jobs: int) -> None:
    """A start with many pending jobs."""
    async with opened(scratch) as driver:
        await submit(driver, jobs)
        await settled(driver)
        stored = sum((await driver.info()).jobs.values())
    started(table, scratch, stored, "pending", seconds=10, each=700)


def started(table: Table, directory: Path, jobs: int, state: str, *, seconds: float, each: float) -> None:
    """Start the storage in a fresh process."""
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.fs", "--start", str(directory)], capture_output=True, text=True, check=True
    )
    found = json.loads(told.stdout)
    table.at_most(seconds, f"start with {jobs:,} {state}", found["seconds"], "s")
    table.at_most(each, "  memory a job", found["bytes"] / jobs, "B")
    table.at_most(2, "  files to what lives", size_of(directory) / ((len(ARGS) + 200) * jobs))


async def start(directory: Path) -> None:
    """Start a storage, and print what it took."""
    before = memory()
    began = time.perf_counter()
    async with opened(directory):
        print(json.dumps({"seconds": time.perf_counter() - began, "bytes": memory() - before}))


async def compaction(table: Table, scratch: Path, jobs: int) -> None:
    """Single submissions while payloads are copied out of segments that are mostly dead."""
    async with opened(scratch) as driver:
        put_off(driver)
        for _ in range(0, jobs, BATCH):
            keys = [OTHER if number % STAY == 0 else KEY for number in range(BATCH)]
            await driver.enqueue([[NewJob(id=uuid4(), type=key.type, args=ARGS)] for key in keys])
            await driver.delete(await work(driver, BATCH))
        gc.freeze()
        before = size_of(scratch)
        took = await latencies(driver, so_many)
        copied: list[int] = []
        begun = asyncio.Event()

        def heard(some: int) -> None:
            copied.append(some)
            begun.set()

        on_copy(driver, heard)
        make_due(driver)
        await driver.enqueue([[NewJob(id=uuid4(), type=OTHER.type)]])
        await asyncio.wait_for(begun.wait(), 300)
        during = await latencies(driver, lambda _taken: keeps(driver))
        if len(during) < 100:
            sys.exit(
                f"the compaction copied {sum(copied)} payloads and was over after {len(during)} submissions: give it more --jobs"
            )
        table.figure("payloads that the compaction copied", sum(copied))
        table.figure("  files after it to before", size_of(scratch) / before)
        took += await latencies(driver, so_many)
        table.figure("p99 of a submission", p99(took) * 1000, "ms")
        table.figure("p99 of a submission while payloads are copied", p99(during) * 1000, "ms")
        table.at_most(3, "  to that without", p99(during) / p99(took))


PARTS: Mapping[str, Callable[[Table, Path, int], Awaitable[None]]] = {
    part.__name__: part for part in (backlog, foreign, delayed, ended, pending, compaction)
}


async def measure(part: str, jobs: int) -> None:
    """Print the rows of a part."""
    table = Table("", f"{part}: {(PARTS[part].__doc__ or '').strip()}")
    with tempfile.TemporaryDirectory(prefix="composerd-benchmark-", dir=SCRATCH) as scratch:
        await PARTS[part](table, Path(scratch), jobs)


def main() -> None:
    """Measure one part, or each in a process of its own, or start a storage for the measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    gc.set_threshold(50_000, 20, 50)  # as the server does
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
