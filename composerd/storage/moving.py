"""Moving everything in a storage into another one."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec

from composerd.artifacts.files import Files
from composerd.driver import Driver, StoredJob
from composerd.errors import ArtifactNotFound, ComposerdError
from composerd.models import Artifact
from composerd.storage.opening import Progress, opened_files

MOVED_AT_ONCE = 100
"""Maximum number of jobs that are stored in one call."""

BYTES_MOVED_AT_ONCE = 16 * 1024 * 1024
"""Size in bytes of args and results from which on a call stores no further jobs."""


class Moved(msgspec.Struct, frozen=True):
    """The result of a move."""

    jobs: int
    """Jobs that are in the target now, including those that were there before."""
    artifacts: int
    """Files that were copied, without those that were there before."""


class ArtifactsElsewhere(ComposerdError):
    """Jobs have artifacts, but the location of their files, or the destination, is unknown."""

    code = "artifacts_elsewhere"


async def move(
    source: Driver, target: Driver, files_from: str | None, files_to: str | None, progress: Progress
) -> Moved:
    """Copy every job, with its history and its files, into another storage, and return the counts.

    The source has to be open for reading, the target started, and no server may run on either storage. The source is
    not changed. A job's files are copied before the job. Jobs and files that the target has already are skipped, so an
    interrupted move can be repeated. Raises `ArtifactsElsewhere`, and the errors of the drivers and the artifact
    stores.
    """
    async with (
        opened_files(files_from or source.artifacts_directory, create=False) as old,
        opened_files(files_to or target.artifacts_directory, create=True) as new,
    ):
        total = sum((await source.info()).jobs.values())
        done = copied = 0
        async for jobs in in_batches(source.dump()):
            for job in jobs:
                for artifact in job.artifacts:
                    copied += await copy_artifact(old, new, artifact)
            await target.load(jobs)
            done += len(jobs)
            progress(done, total)
    return Moved(done, copied)


async def in_batches(jobs: AsyncIterator[StoredJob]) -> AsyncGenerator[list[StoredJob], None]:
    """Yield jobs in lists that are stored in one call each."""
    batch: list[StoredJob] = []
    size = 0
    async for job in jobs:
        batch.append(job)
        size += len(job.new.args or b"") + len(job.result or b"")
        if len(batch) == MOVED_AT_ONCE or size >= BYTES_MOVED_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def copy_artifact(source: Files | None, target: Files | None, artifact: Artifact) -> bool:
    """Copy a file unless the target has it, and return whether it was copied. Raises `ArtifactsElsewhere`."""
    if source is None or target is None:
        raise ArtifactsElsewhere(
            f"jobs have artifacts, but the {'source' if source is None else 'target'} storage has no directory for "
            f"files: name one with {'--from-artifacts' if source is None else '--to-artifacts'}"
        )
    if await target.size(artifact.location) == artifact.size:
        return False
    try:
        async with aclosing(source.read(artifact.location, 0, artifact.size)) as parts:
            await target.copy(artifact.location, parts)
    except ArtifactNotFound as exc:
        raise ArtifactsElsewhere(
            f"cannot copy the artifact {artifact.name!r}: its file {source.description}/{artifact.location} is missing"
            "; if the server has --artifacts, name that directory with --from-artifacts"
        ) from exc
    return True
