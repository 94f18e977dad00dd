"""Attempts' files, in whatever store: they are given their places, digested as they come, and nothing unexpected gets out of a store."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from typing import Self, TypeVar
from uuid import UUID, uuid4

from composerd.artifacts.contract import ArtifactStore, Writer
from composerd.errors import ArtifactTooLarge, ComposerdError, Unavailable
from composerd.models import Artifact

log = logging.getLogger(__name__)

PART = 256 * 1024
"""How much is handed to a store at a time, in bytes; the last part may be less."""

R = TypeVar("R")


class Files:
    """The files of all jobs, in a store.

    A file is written once, to a place of its own (`JOB/ATTEMPT/UPLOAD`): what makes it the attempt's, and later the job's,
    is the storage driver's record of it. So two uploads of one name cannot mix, and no name that a worker chose reaches
    the store.
    """

    def __init__(self, store: ArtifactStore, where: str = "") -> None:
        self.store = store
        self.where = where
        """The directory or the URL, for messages."""
        self.uploading: set[UUID] = set()
        """Jobs with files that are not over; the sweeper takes them out."""

    async def start(self, *, create: bool = True) -> None:
        """Open the store, making what it needs if `create`."""
        await self.guarded(self.store.start(create=create))

    async def close(self) -> None:
        """Close the store."""
        await self.guarded(self.store.close())

    async def check(self) -> None:
        """Return if files are taken. Raises `Unavailable`, `StorageFull`."""
        await self.guarded(self.store.check())

    def upload(self, job_id: UUID, attempt: int, limit: int) -> "Upload":
        """Begin a file of at most `limit` bytes."""
        self.uploading.add(job_id)
        return Upload(self, f"{job_id}/{attempt}/{uuid4()}", limit)

    async def read(self, place: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a file from `start` up to `stop`, in parts. Raises `ArtifactNotFound`, `Unavailable`."""
        if start < stop:
            try:
                async with aclosing(self.store.read(place, start, stop)) as parts:
                    async for part in parts:
                        yield part
            except Exception as exc:
                raise self._ours(exc) from exc

    async def copy(self, place: str, parts: AsyncIterator[bytes]) -> None:
        """Put these bytes at a place, whole or not at all."""
        async with _Writing(self, place) as writing:
            async for part in parts:
                await writing.write(part)
            await writing.commit()

    async def size(self, place: str) -> int | None:
        """The size of a file, None if there is none."""
        return await self.guarded(self.store.size(place))

    async def list(self, prefix: str) -> AsyncGenerator[Sequence[str], None]:
        """The places of files that begin so, some at a time."""
        try:
            async for places in self.store.list(prefix):
                yield places
        except Exception as exc:
            raise self._ours(exc) from exc

    async def remove(self, places: Sequence[str]) -> None:
        """Remove files."""
        if places:
            await self.guarded(self.store.remove(places))

    async def guarded(self, call: Awaitable[R]) -> R:
        """What a call of the store gives; nothing but `ComposerdError` is raised."""
        try:
            return await call
        except Exception as exc:
            raise self._ours(exc) from exc

    def _ours(self, exc: Exception) -> ComposerdError:
        if isinstance(exc, ComposerdError):
            return exc
        log.warning("the artifact store %s failed", self.store.name, exc_info=exc)
        return Unavailable(f"artifacts: {self.store.name}: {exc}")


class _Writing:
    """What is on its way to a place; an async context manager that leaves nothing behind unless `commit` was called."""

    def __init__(self, files: Files, place: str) -> None:
        self._files = files
        self._place = place
        self._writer: Writer | None = None
        self._parts: list[bytes] = []
        self._held = 0
        self._kept = False

    async def __aenter__(self) -> Self:
        self._writer = await self._files.guarded(self._files.store.create(self._place))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if not self._kept and self._writer is not None:
            await asyncio.shield(self._abort(self._writer))

    async def write(self, part: bytes) -> None:
        """Add a part of any size. Raises `StorageFull`, `Unavailable`."""
        self._parts.append(part)
        self._held += len(part)
        if self._held >= PART:
            await self._flush()

    async def commit(self) -> None:
        """Bring all of it to stable storage."""
        assert self._writer is not None
        await self._flush()
        await self._files.guarded(self._writer.commit())
        self._kept = True

    async def _flush(self) -> None:
        assert self._writer is not None
        part = b"".join(self._parts)
        self._parts, self._held = [], 0
        if part:
            await self._hand_over(part, self._writer)

    async def _hand_over(self, part: bytes, writer: Writer) -> None:
        await self._files.guarded(writer.write(part))

    async def _abort(self, writer: Writer) -> None:
        try:
            await self._files.guarded(writer.abort())
        except ComposerdError as exc:
            log.warning("an upload left something behind, which is swept when its attempt is over: %s", exc)


class Upload(_Writing):
    """One file on its way in; it leaves nothing behind unless `complete` was called."""

    def __init__(self, files: Files, place: str, limit: int) -> None:
        super().__init__(files, place)
        self.size = 0
        self._limit = limit
        self._digest = hashlib.sha256()

    async def write(self, part: bytes) -> None:
        """Add to the file. Raises `ArtifactTooLarge`, `StorageFull`, `Unavailable`."""
        self.size += len(part)
        if self.size > self._limit:
            raise ArtifactTooLarge(limit=self._limit)
        await super().write(part)

    async def complete(self, name: str) -> Artifact:
        """Bring the file to stable storage; from here on it is the caller's to attach or remove."""
        await self.commit()
        return Artifact(name, self.size, self._digest.hexdigest(), self._place)

    async def _hand_over(self, part: bytes, writer: Writer) -> None:
        await asyncio.to_thread(self._digest.update, part)
        await super()._hand_over(part, writer)
