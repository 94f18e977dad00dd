"""Taking what is whole out of a damaged storage, with its artifacts, into a new one."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeVar
from uuid import UUID

import msgspec

from composerd.artifacts.files import Files
from composerd.driver import Damage, Driver, StoredJob
from composerd.driver.registry import open_driver
from composerd.errors import ArtifactNotFound, ComposerdError, Unavailable
from composerd.ids import parse_uuid
from composerd.models import Artifact
from composerd.storage.moving import ArtifactsElsewhere, in_batches
from composerd.storage.opening import opened_files, started

T = TypeVar("T")


class Salvaged(msgspec.Struct, frozen=True):
    """The result of a salvage."""

    jobs: int
    """Jobs that are in the new storage."""
    artifacts: int
    damage: tuple[Damage, ...]
    """Everything that is damaged, incomplete or lost."""
    not_checked: tuple[str, ...]
    """A sentence for each part that was left out because nothing in it was acknowledged."""


class NotEmpty(ComposerdError):
    """The storage that a salvage is to write has jobs."""

    code = "not_empty"


class _Damaged(Exception):
    """The content of a file does not match its digest."""


async def salvage(source_url: str, target_url: str, files_from: str | None, files_to: str | None) -> Salvaged:
    """Store every job of a damaged storage that can be saved in a new storage, with the files that are whole.

    The source is not changed, and no server may run on it. Raises `NotEmpty`, `NotOffered`, `ArtifactsElsewhere`, and
    the errors of the drivers and the artifact stores.
    """
    source, target = open_driver(source_url), open_driver(target_url)
    async with aclosing(source.salvage()) as found:
        first = await anext(found, None)  # from now on nobody can write to the source, also not as the target
        async with (
            started(target, create=True),
            opened_files(files_from or source.artifacts_directory, create=False) as old,
            opened_files(files_to or target.artifacts_directory, create=True) as new,
        ):
            if sum((await target.info()).jobs.values()):
                there = (await target.info()).description
                why = "name a storage that does not exist, or remove what an interrupted salvage has left there"
                raise NotEmpty(f"{there} has jobs: {why}")
            return await _Salvage(target, old, new).run(_chained(first, found))


async def _chained(first: T | None, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    if first is not None:
        yield first
    async for one in rest:
        yield one


class _Salvage:
    """One salvage into a new storage."""

    def __init__(self, target: Driver, old: Files | None, new: Files | None) -> None:
        self._target = target
        self._old = old
        self._new = new
        self._damage: list[Damage] = []
        self._artifacts = 0
        self._known: set[UUID] = set()
        """The jobs that were found, and the lost ones that are named."""

    async def run(self, found: AsyncIterator[StoredJob | Damage]) -> Salvaged:
        """Store the jobs that were found, and return the result."""
        jobs = 0
        async with aclosing(in_batches(self._with_files(found))) as batches:
            async for batch in batches:
                await self._target.load(batch)
                jobs += len(batch)
        if any(one.job_id is None and not one.harmless for one in self._damage):
            self._damage += await self._only_files()
        harmless = tuple(one.problem for one in self._damage if one.harmless)
        return Salvaged(jobs, self._artifacts, tuple(one for one in self._damage if not one.harmless), harmless)

    async def _with_files(self, found: AsyncIterator[StoredJob | Damage]) -> AsyncIterator[StoredJob]:
        """Yield the jobs that were found with those of their files that are whole and were copied."""
        async for one in found:
            if isinstance(one, Damage):
                self._damage.append(one)
                if one.job_id is not None:
                    self._known.add(one.job_id)
            else:
                self._known.add(one.new.id)
                copied = [artifact for artifact in one.artifacts if await self._copy(one, artifact)]
                yield msgspec.structs.replace(one, artifacts=tuple(copied))

    async def _only_files(self) -> list[Damage]:
        """Return the jobs of which only files are left: a server on the damaged storage would remove these files."""
        old = self._old
        if old is None:
            return []
        jobs: set[UUID | None] = set()
        try:
            async with aclosing(old.list("")) as listed:
                async for locations in listed:
                    jobs |= {parse_uuid(location.partition("/")[0]) for location in locations}
        except Unavailable as exc:
            return [Damage(problem=str(exc))]
        return [
            Damage(problem=f"only files of it are left, in {old.description}/{job_id}", job_id=job_id, lost=True)
            for job_id in jobs - self._known
            if job_id is not None
        ]

    async def _copy(self, job: StoredJob, artifact: Artifact) -> bool:
        """Copy a file, and return False if it is not whole."""
        if self._old is None or self._new is None:
            option = "--artifacts" if self._old is None else "--to-artifacts"
            raise ArtifactsElsewhere(f"jobs have artifacts: name the directory of their files with {option}")
        try:
            await self._new.copy(artifact.location, _checked(self._old, artifact))
        except (ArtifactNotFound, _Damaged) as exc:
            why = "is missing" if isinstance(exc, ArtifactNotFound) else "is damaged"
            problem = f"its artifact {artifact.name!r} {why}: {self._old.description}/{artifact.location}"
            state = job.job.state.value
            self._damage.append(Damage(problem=problem, job_id=job.new.id, type=job.new.type, state=state))
            return False
        self._artifacts += 1
        return True


async def _checked(files: Files, artifact: Artifact) -> AsyncIterator[bytes]:
    """Yield the content of a file.

    Raises `ArtifactNotFound`, and `_Damaged` if it cannot be read or, at its end, if its digest or size is another one.
    """
    if await files.size(artifact.location) is None:
        raise ArtifactNotFound
    digest = hashlib.sha256()
    try:
        async with aclosing(files.read(artifact.location, 0, artifact.size)) as parts:
            async for part in parts:
                digest.update(part)
                yield part
    except Unavailable as exc:
        raise _Damaged from exc
    if digest.hexdigest() != artifact.sha256 or await files.size(artifact.location) != artifact.size:
        raise _Damaged
