"""kill -9 at random moments of real work, checkpoints and compactions too, loses nothing that was acknowledged."""

import asyncio
import hashlib
import os
import random
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from composerd.models import JobState, NewJob
from composerd_fs import FsDriver

ROUNDS = int(os.environ.get("KILLS", "12"))
"""Number of times that the process is killed. Set `KILLS=200` for a long run."""

PROGRAM = Path(__file__).with_name("kill_me.py")


class Known:
    """The output of the process: jobs that must be stored, and jobs that may be because no outcome was printed."""

    def __init__(self) -> None:
        self.args: dict[str, str] = {}
        self.did: dict[str, dict[str, Any]] = {}
        self.tried: dict[str, set[str]] = {}
        self._more: dict[tuple[str, str], list[str]] = {}

    def hear(self, line: str) -> None:
        """Take a line that the process has printed."""
        verb, what, job_id, *more = line.split()
        did = self.did.setdefault(job_id, {})
        if verb == "did":
            did[what] = self._more[what, job_id]
            self.tried.get(job_id, set()).discard(what)
            return
        self.tried.setdefault(job_id, set()).add(what)
        self._more[what, job_id] = more
        if what == "submit":
            self.args[job_id] = more[0]


async def killed(root: Path, chance: random.Random, known: Known) -> None:
    """Start the process, and kill it at a random moment."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), str(root), str(chance.getrandbits(32)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"started\n"
    killer = asyncio.get_running_loop().call_later(chance.uniform(0.02, 0.6), process.kill)
    async for line in process.stdout:
        if line.endswith(b"\n"):
            known.hear(line.decode())
    await process.wait()
    killer.cancel()


async def compare(root: Path, known: Known) -> int:
    """Check that exactly what was acknowledged is stored, and return the bytes of the jobs."""
    driver = FsDriver(root)
    await driver.start()
    jobs = {str(job.new.id): job async for job in driver.dump()}
    await driver.close()
    size = sum(300 + len(job.new.args or b"") + len(job.result or b"") for job in jobs.values())
    for job_id, did in known.did.items():
        tried = known.tried.get(job_id, set())
        job = jobs.pop(job_id, None)
        if job is None:
            assert "delete" in did or "delete" in tried or "submit" not in did, (job_id, did)
            continue
        assert "delete" not in did
        assert job.new.args is not None
        assert hashlib.sha256(job.new.args).hexdigest() == known.args[job_id]
        if "cancel" in did:
            assert job.job.state is JobState.CANCELED
        if "finish" in did:
            digest, token = did["finish"]
            assert job.job.state is JobState.FINISHED
            assert job.result is not None
            assert hashlib.sha256(job.result).hexdigest() == digest
            assert [one.location for one in job.artifacts] == [token]
            assert job.attempts[-1].token == UUID(token)
    assert not jobs
    return size


async def quiet(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open the storage until no compaction is due: perhaps no process has lived long enough to finish one."""
    monkeypatch.setattr("composerd_fs.journal.writer.SEGMENT_SIZE", 32 * 1024)
    monkeypatch.setattr("composerd_fs.journal.compactor.CHECKPOINT_AFTER", 32 * 1024)
    driver = FsDriver(root)
    await driver.start()
    for _ in range(2):  # what one checkpoint copies out of sparse segments may make another one due
        await driver.enqueue([[NewJob(id=uuid4(), type="last")]])
        while (task := driver._compactor._task) is not None:
            await asyncio.wait([task])
    await driver.close()


@pytest.mark.timeout(max(120, ROUNDS * 5))
async def test_kill_9_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start finds what was acknowledged before any of the kills."""
    chance = random.Random(20261124)
    known = Known()
    live = 0
    for _ in range(ROUNDS):
        await killed(tmp_path / "storage", chance, known)
        live = await compare(tmp_path / "storage", known)
    assert len(known.did) > 20 * ROUNDS
    journal = tmp_path / "storage" / "journal"
    assert len(list(journal.glob("*.checkpoint"))) == 1
    await quiet(tmp_path / "storage", monkeypatch)
    assert sum(path.stat().st_size for path in journal.iterdir()) < 2 * live + 200_000
