"""Loads for the fs driver without a server, and the time that they take."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

from composerd.models import Claim, Key, NewJob, Outcome
from composerd_fs import FsDriver
from composerd_fs.state.commands import CopiedPayloads

ARGS = b'"' + b"x" * 1022 + b'"'
KEY = Key("", "benchmark", None)
OTHER = Key("", "other", None)
BATCH = 500
ROUNDS = 40
SAMPLES = 1000
WORKER = uuid4()


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[FsDriver]:
    """Open a storage for the block."""
    driver = FsDriver(directory)
    await driver.start()
    try:
        yield driver
    finally:
        await driver.close()


async def submit(driver: FsDriver, count: int, *, key: Key = KEY, delay: float | None = None) -> None:
    """Store this many jobs of 1 KiB, each in a submission of its own, many in a flush."""
    for _ in range(0, count, BATCH):
        jobs = [NewJob(id=uuid4(), type=key.type, args=ARGS, not_before=delay) for _ in range(BATCH)]
        await driver.enqueue([[job] for job in jobs])


async def work(driver: FsDriver, count: int) -> Sequence[UUID]:
    """Claim and finish this many jobs, and return their ids."""
    worked: list[UUID] = []
    for _ in range(0, count, BATCH):
        claims = [Claim(uuid4(), (KEY,), 120.0, worker_id=WORKER) for _ in range(BATCH)]
        claimed = [one for one in (await driver.claim(claims, 2**40)).items if one]
        await driver.finish([Outcome(one.token, b'{"ok":true}', failed=False) for one in claimed])
        worked += [one.job_id for one in claimed]
    return worked


async def rates(*drivers: FsDriver) -> Sequence[float]:
    """Return the jobs a second of each driver, through submit, claim and finish, in addition to its other jobs.

    The drivers take turns, round by round, so that a disturbance affects all of them. The first round warms up.
    """
    seconds = [0.0 for _ in drivers]
    for number in range(ROUNDS + 1):
        for index, driver in enumerate(drivers):
            began = time.perf_counter()
            await submit(driver, BATCH)
            await work(driver, BATCH)
            if number > 0:
                seconds[index] += time.perf_counter() - began
    return [ROUNDS * BATCH / took for took in seconds]


def is_compacting(driver: FsDriver) -> bool:
    """Return whether a checkpoint or a compaction is running."""
    return driver._compactor._task is not None  # noqa: SLF001  # only the benchmark needs to know


def make_due(driver: FsDriver) -> None:
    """Let the next write begin a checkpoint."""
    driver._compactor._closed = False  # noqa: SLF001
    driver._compactor.due_at_bytes = 0  # noqa: SLF001


def postpone(driver: FsDriver) -> None:
    """Let no checkpoint begin before `make_due` is called."""
    driver._compactor._closed = True  # noqa: SLF001


def on_copy(driver: FsDriver, note: Callable[[int], None]) -> None:
    """Call `note` before each write of a compaction with the number of jobs whose payloads are copied."""
    sparse = driver._compactor._sparse  # noqa: SLF001
    copy = sparse._copy_payloads  # noqa: SLF001

    async def noted(payloads: Sequence[CopiedPayloads]) -> None:
        note(len(payloads))
        await copy(payloads)

    sparse._copy_payloads = noted  # noqa: SLF001


async def idle(driver: FsDriver) -> None:
    """Wait until no checkpoint is running or due."""
    await driver.enqueue([[NewJob(id=uuid4(), type=OTHER.type)]])
    while (task := driver._compactor._task) is not None:  # noqa: SLF001
        await asyncio.wait([task])
        await driver.enqueue([[NewJob(id=uuid4(), type=OTHER.type)]])


async def latencies(driver: FsDriver, go_on: Callable[[int], bool]) -> list[float]:
    """Return the seconds of single submissions, 2 ms apart; `go_on` gets their number so far, and says when to stop."""
    took: list[float] = []
    while go_on(len(took)):
        began = time.perf_counter()
        await driver.enqueue([[NewJob(id=uuid4(), type=OTHER.type, args=ARGS)]])
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.002)
    return took


def needs_samples(taken: int) -> bool:
    """Return whether fewer samples than `SAMPLES` were taken."""
    return taken < SAMPLES


def size_of(directory: Path) -> int:
    """Return the size of the journal's files in bytes."""
    return sum(path.stat().st_size for path in (directory / "journal").iterdir())


def memory() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
