"""How the fs driver behaves with many jobs, without a server around it: `python -m benchmarks.fs`.

Ratios are of two measurements in one run. `--jobs` is how many are stored, a million by default.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from uuid import uuid4

from composerd.models import Claim, Key, NewJob, Outcome
from composerd_fs import FsDriver

ARGS = b'"' + b"x" * 1022 + b'"'
KEY = Key("", "benchmark", None)
BATCH = 500
ROUNDS = 40
SCRATCH = "/var/tmp"  # noqa: S108  # a fresh directory is made in it; unlike /tmp it is not memory anywhere
WORKER = uuid4()


async def submit(driver: FsDriver, count: int) -> None:
    """Store jobs of a KiB, each a submission of its own, many in a flush."""
    for _ in range(0, count, BATCH):
        jobs = [NewJob(id=uuid4(), type=KEY.type, args=ARGS) for _ in range(BATCH)]
        await driver.enqueue([[job] for job in jobs])


async def work(driver: FsDriver, count: int) -> None:
    """Claim and finish jobs."""
    for _ in range(0, count, BATCH):
        claims = [Claim(uuid4(), (KEY,), 120.0, worker_id=WORKER) for _ in range(BATCH)]
        claimed = (await driver.claim(claims, 2**40)).items
        await driver.finish([Outcome(one.token, b'{"ok":true}', failed=False) for one in claimed if one])


async def rate(driver: FsDriver) -> float:
    """Jobs a second through submit, claim and finish, onto whatever backlog there is."""
    began = time.perf_counter()
    for _ in range(ROUNDS):
        await submit(driver, BATCH)
        await work(driver, BATCH)
    return ROUNDS * BATCH / (time.perf_counter() - began)


async def settled(driver: FsDriver) -> None:
    """Wait until no checkpoint is being taken, and none is due."""
    await driver.enqueue([[NewJob(id=uuid4(), type="other")]])
    while (task := driver._keeper._task) is not None:  # noqa: SLF001  # nobody else needs to know
        await asyncio.wait([task])
        await driver.enqueue([[NewJob(id=uuid4(), type="other")]])


async def latency(driver: FsDriver, *, during_checkpoint: bool) -> list[float]:
    """Seconds that single submissions take, one every few milliseconds."""
    keeper = driver._keeper  # noqa: SLF001
    if during_checkpoint:
        keeper._after = 1  # noqa: SLF001
    took: list[float] = []
    while len(took) < 1000:
        began = time.perf_counter()
        await driver.enqueue([[NewJob(id=uuid4(), type="other", args=ARGS)]])
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.002)
        if during_checkpoint and keeper._task is None and len(took) > 50:  # noqa: SLF001
            break
    return took


def p99(took: list[float]) -> float:
    """In milliseconds."""
    return quantiles(took, n=100)[98] * 1000


def size_of(directory: Path) -> int:
    """Bytes of the journal's files."""
    return sum(path.stat().st_size for path in (directory / "journal").iterdir())


def started(directory: Path, jobs: int) -> str:
    """Start the storage in a fresh process; what it took."""
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.fs", "--start", str(directory)], capture_output=True, text=True, check=True
    )
    found = json.loads(told.stdout)
    return f"start {found['seconds']:.1f} s, {found['bytes'] / jobs:.0f} bytes of memory a job"


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def start(directory: Path) -> None:
    """Start a storage, and print what it took."""
    driver = FsDriver(directory)
    before = _memory()
    began = time.perf_counter()
    await driver.start()
    print(json.dumps({"seconds": time.perf_counter() - began, "bytes": _memory() - before}))
    await driver.close()


async def measure(jobs: int, scratch: Path) -> None:
    """Print every row."""
    driver = FsDriver(scratch / "a")
    await driver.start()
    await submit(driver, 1_000)
    few = await rate(driver)
    print(f"backlog of 1,000          {few:8.0f} jobs/s")
    await submit(driver, jobs)
    await settled(driver)
    gc.freeze()
    many = await rate(driver)
    print(f"backlog of {jobs:<10,}     {many:8.0f} jobs/s   ratio {many / few:.2f}")
    driver._keeper._after = 1  # noqa: SLF001
    during = await rate(driver)
    print(f"while a checkpoint is taken {during:6.0f} jobs/s   ratio {during / few:.2f}")
    await settled(driver)
    without = p99(await latency(driver, during_checkpoint=False))
    slowest = p99(await latency(driver, during_checkpoint=True))
    print(
        f"p99 of a submission       {without:8.2f} ms; while a checkpoint is taken {slowest:.2f} ms, ratio {slowest / without:.1f}"
    )
    await settled(driver)
    await work(driver, jobs)
    await settled(driver)
    gc.freeze()
    after = await rate(driver)
    print(f"{jobs:,} ended         {after:8.0f} jobs/s   ratio {after / few:.2f}")
    await driver.close()

    live = (len(ARGS) + 200) * jobs
    for state in ("pending", "ended"):
        driver = FsDriver(scratch / "b")
        await driver.start()
        await (submit if state == "pending" else work)(driver, jobs)
        await settled(driver)
        await driver.close()
        files = size_of(scratch / "b") / live
        print(f"{jobs:,} {state:8}      {started(scratch / 'b', jobs)}; files {files:.2f} of what lives")


def main() -> None:
    """Measure, or start a storage for the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start is not None:
        asyncio.run(start(given.start))
        return
    gc.set_threshold(50_000, 20, 50)  # as the server does
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        asyncio.run(measure(given.jobs, Path(scratch)))


if __name__ == "__main__":
    main()
