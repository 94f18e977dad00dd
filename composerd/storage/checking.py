"""Looking at a storage, checking it, and upgrading its format."""

from collections.abc import Collection
from uuid import UUID

import msgspec

from composerd.artifacts.files import Files
from composerd.driver import StorageCheck, StorageInfo
from composerd.driver.registry import open_driver
from composerd.errors import StorageMissing
from composerd.models import Artifact
from composerd.storage.opening import Progress, artifacts_of, opened_files, reading, started


async def migrate(url: str, *, create: bool) -> str:
    """Upgrade the format of a storage, and return what was done: `is up to date`, for example.

    With `create`, a storage that does not exist is created. Raises what `Driver.start` raises.
    """
    driver = open_driver(url)
    try:
        done = await driver.migrate()
    except StorageMissing:
        if not create:
            raise
        async with started(open_driver(url), create=True):
            return "was created"
    finally:
        await driver.close()
    return "is up to date" if done is None else f"was {done}"


async def info(url: str) -> StorageInfo:
    """Return a summary of a storage, and change nothing. Raises what `Driver.start_reading` raises."""
    driver = open_driver(url)
    async with reading(driver) as not_read:
        found = await driver.info()
    return msgspec.structs.replace(found, not_checked=(*found.not_checked, *not_read))


async def check(url: str, artifacts: str | None, progress: Progress) -> StorageCheck:
    """Read everything in a storage, then compare every artifact with its file, and return the problems found.

    Nothing is changed, and a server may use the storage meanwhile. `artifacts` is the directory of the files or the URL
    of an artifact store; None: the directory that the driver offers. If the driver finds problems, the artifacts are
    not checked.
    """
    driver = open_driver(url)
    try:
        found = await driver.check()
    finally:
        await driver.close()
    if found.problems:
        return _without_artifacts(found, "the storage is damaged")
    driver = open_driver(url)
    directory = artifacts or driver.artifacts_directory
    if directory is None:
        return _without_artifacts(found, "name their directory, or the URL of their store, with --artifacts")
    async with reading(driver), opened_files(directory, create=False) as files:
        total = sum((await driver.info()).jobs.values())
        done = compared = 0
        wrong: dict[tuple[UUID, str], str] = {}
        async for job_id, listed in artifacts_of(driver):
            for artifact in listed:
                compared += 1
                if files is not None and (problem := await _problem(files, artifact)) is not None:
                    wrong[job_id, artifact.location] = f"job {job_id}: {artifact.name!r}: {problem}"
            done += 1
            progress(done, total)
    still = await still_listed(url, wrong)
    problems = [problem for key, problem in wrong.items() if key in still]
    not_checked = found.not_checked
    if compared:
        not_checked = (
            *not_checked,
            f"the contents of artifacts: only the sizes of their files were compared ({compared})",
        )
    return msgspec.structs.replace(found, problems=tuple(problems), not_checked=not_checked)


def _without_artifacts(found: StorageCheck, why: str) -> StorageCheck:
    return msgspec.structs.replace(found, not_checked=(*found.not_checked, f"the artifacts: {why}"))


async def still_listed(url: str, found: Collection[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
    """Return which of some files of jobs are still those of the jobs, once the files were found to be wrong.

    A server may have deleted a job and its files since they were listed.
    """
    if not found:
        return set()
    ids = list({job_id for job_id, _ in found})
    driver = open_driver(url)
    async with reading(driver):
        listed = await driver.artifacts(ids)
    return {(job_id, one.location) for job_id, artifacts in zip(ids, listed, strict=True) for one in artifacts}


async def _problem(files: Files, artifact: Artifact) -> str | None:
    size = await files.size(artifact.location)
    if size is None:
        return f"its file {files.description}/{artifact.location} is missing"
    if size != artifact.size:
        return f"its file {files.description}/{artifact.location} has {size} bytes, not {artifact.size}"
    return None
