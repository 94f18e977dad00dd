"""A process that works on an fs storage until it is killed, and prints what it tries and what was acknowledged.

Run by test_kill: `python kill_me.py DIRECTORY SEED`. Segments and checkpoints are small,
so that a compaction is always under way.
"""

import asyncio
import hashlib
import random
import sys
from pathlib import Path
from uuid import UUID

import composerd_fs.journal.compactor
import composerd_fs.journal.writer
from composerd.models import Artifact, Attachment, Claim, JobState, Key, NewJob, Outcome
from composerd_fs import FsDriver

WORKERS = 8
KEPT = 40
"""The number of ended jobs that are kept; one is deleted for each further one."""


def say(*words: object) -> None:
    """Print a line for the process that watches."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def work(driver: FsDriver, chance: random.Random, ended: list[UUID]) -> None:
    """Submit, claim, finish, cancel and delete jobs until the process is killed."""
    while True:
        job_id, token = (UUID(int=chance.getrandbits(128)) for _ in range(2))
        args = b'"' + chance.randbytes(chance.choice([10, 300, 1500])).hex().encode() + b'"'
        say("try", "submit", job_id, hashlib.sha256(args).hexdigest())
        await driver.enqueue([[NewJob(id=job_id, type="t", args=args, priority=chance.randrange(3))]])
        say("did", "submit", job_id)
        (claimed,) = (await driver.claim([Claim(token, (Key("", "t", None),), 60.0)], 2**40)).items
        if claimed is None:
            continue
        if chance.random() < 0.2:
            say("try", "cancel", claimed.job_id)
            await driver.cancel([claimed.job_id])
            say("did", "cancel", claimed.job_id)
        else:
            await driver.attach([Attachment(token, Artifact("a", 3, "ab" * 32, str(token)))])
            result = b'"' + chance.randbytes(chance.choice([10, 400])).hex().encode() + b'"'
            say("try", "finish", claimed.job_id, hashlib.sha256(result).hexdigest(), token)
            await driver.finish([Outcome(token, result, failed=False)])
            say("did", "finish", claimed.job_id)
        ended.append(claimed.job_id)
        if len(ended) > KEPT:
            gone = ended.pop(chance.randrange(KEPT))
            say("try", "delete", gone)
            await driver.delete([gone])
            say("did", "delete", gone)


async def main() -> None:
    """Open the storage and work on it with several tasks."""
    composerd_fs.journal.writer.SEGMENT_SIZE = 32 * 1024
    composerd_fs.journal.compactor.CHECKPOINT_AFTER = 32 * 1024
    composerd_fs.journal.compactor.JOBS_AT_ONCE = 5
    driver = FsDriver(Path(sys.argv[1]))
    await driver.start()
    ended = [job.new.id async for job in driver.dump() if job.job.state in (JobState.FINISHED, JobState.CANCELED)]
    say("started")
    chance = random.Random(int(sys.argv[2]))
    await asyncio.gather(*[work(driver, chance, ended) for _ in range(WORKERS)])


if __name__ == "__main__":
    asyncio.run(main())
