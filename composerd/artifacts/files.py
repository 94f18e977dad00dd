"""Files of attempts in any artifact store: chooses their locations, computes their digests, and translates errors."""

import asyncio
import hashlib
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

import msgspec

from composerd.artifacts.allowances import Allowance, Allowances
from composerd.artifacts.contract import ArtifactStore, Writer
from composerd.errors import ComposerdError, Unavailable
from composerd.free_space import DiskSpace, FreeSpace
from composerd.models import Artifact
from composerd.shares import Shares

log = logging.getLogger(__name__)

PART = 256 * 1024
"""Size in bytes of the parts that are passed to a store; the last part may be smaller."""

R = TypeVar("R")


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of uploads and downloads."""

    max_size: int = sys.maxsize
    """Maximum size of one file in bytes."""
    max_files: int = sys.maxsize
    """Maximum number of files of an attempt."""
    max_total: int = sys.maxsize
    """Maximum size of all files of an attempt together, in bytes."""
    min_free_space: int | None = 0
    """Bytes that have to stay free on the file system; None for a part of it."""
    max_transfers: int = sys.maxsize
    """Maximum number of uploads and downloads at one time."""


_UNLIMITED = FileLimits()


class Files:
    """The files of all jobs, in one artifact store.

    Each file is written once, to a location of its own (`JOB/ATTEMPT/UPLOAD`). The storage driver's record of the
    location makes the file the attempt's, and later the job's. So two uploads with one name cannot mix, and no name
    that a worker chose reaches the store.
    """

    def __init__(self, store: ArtifactStore, description: str = "", limits: FileLimits = _UNLIMITED) -> None:
        """Use a store that was not started yet; `description` is its directory or URL, for messages."""
        self.store = store
        self.description = description
        self.limits = limits
        self.allowances = Allowances(limits.max_size, limits.max_files, limits.max_total)
        self.space = FreeSpace("the artifacts", "uploads", self._free_space, limits.min_free_space)
        self.transfers = Shares("uploads and downloads", limits.max_transfers)
        """The uploads and downloads in progress, each of which has a file open."""
        self.uploading: set[UUID] = set()
        """Jobs that may have files of an attempt that has not ended; the sweeper removes them from this set."""
        self.leftovers: asyncio.Queue[UUID] = asyncio.Queue()
        """Jobs that may have files which nothing names any more; the sweeper looks for those."""

    async def start(self, *, create: bool = True) -> None:
        """Open the store. If `create` is true, create what it needs."""
        await self.guarded(self.store.start(create=create))

    async def close(self) -> None:
        """Close the store."""
        await self.guarded(self.store.close())

    async def check(self) -> None:
        """Return if the store accepts files. Raises `Unavailable` or `StorageFull` otherwise."""
        await self.guarded(self.store.check())

    async def _free_space(self) -> DiskSpace | None:
        return await self.guarded(self.store.free_space())

    @contextmanager
    def transfer(self, client: str) -> Iterator[None]:
        """Count an upload or a download of a client for the length of a block.

        Raises `Unavailable` if the client has its share of those already.
        """
        self.transfers.take(client)
        try:
            yield
        finally:
            self.transfers.free(client)

    def upload(self, job_id: UUID, attempt: int, allowance: Allowance) -> "Upload":
        """Begin an upload for an attempt, given by its number."""
        self.uploading.add(job_id)
        return Upload(self, f"{job_id}/{attempt}/{uuid4()}", allowance)

    async def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file from `start` up to `stop`, in parts. Raises `ArtifactNotFound`, `Unavailable`."""
        if start < stop:
            try:
                async with aclosing(self.store.read(location, start, stop)) as parts:
                    async for part in parts:
                        yield part
            except Exception as exc:
                raise self._translated(exc) from exc

    async def copy(self, location: str, parts: AsyncIterator[bytes]) -> None:
        """Write these bytes to a location; if it raises, nothing is there."""
        async with _FileWriter(self, location) as writer:
            async for part in parts:
                await writer.write(part)
            await writer.commit()

    async def size(self, location: str) -> int | None:
        """Return the size of a file in bytes, or None if there is no file."""
        return await self.guarded(self.store.size(location))

    async def list(self, prefix: str) -> AsyncGenerator[Sequence[str], None]:
        """Yield the locations of files that begin with `prefix`, some at a time."""
        try:
            async for locations in self.store.list(prefix):
                yield locations
        except Exception as exc:
            raise self._translated(exc) from exc

    async def remove(self, locations: Sequence[str]) -> None:
        """Remove the files at these locations; a location without a file is ignored."""
        if locations:
            await self.guarded(self.store.remove(locations))

    async def guarded(self, call: Awaitable[R]) -> R:
        """Return the result of a call of the store, and raise nothing but `ComposerdError`."""
        try:
            return await call
        except Exception as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: Exception) -> ComposerdError:
        if isinstance(exc, ComposerdError):
            return exc
        log.warning("the artifact store %s failed", self.store.name, exc_info=exc)
        return Unavailable(f"artifact store {self.store.name} failed: {exc}")


class _FileWriter:
    """Writes one file; an async context manager that removes what was written unless `commit` was called."""

    def __init__(self, files: Files, location: str) -> None:
        self._files = files
        self._location = location
        self._writer: Writer | None = None
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._committed = False

    async def __aenter__(self) -> Self:
        self._writer = await self._files.guarded(self._files.store.create(self._location))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if not self._committed and self._writer is not None:
            await asyncio.shield(self._abort(self._writer))

    async def write(self, part: bytes) -> None:
        """Append a part of any size. Raises `StorageFull`, `Unavailable`."""
        self._buffer.append(part)
        self._buffered += len(part)
        if self._buffered >= PART:
            await self._flush()

    async def commit(self) -> None:
        """Publish the file, and return once it is on stable storage."""
        assert self._writer is not None
        await self._flush()
        await _completed(self._files.guarded(self._writer.commit()))
        self._committed = True

    async def _flush(self) -> None:
        assert self._writer is not None
        part = b"".join(self._buffer)
        self._buffer, self._buffered = [], 0
        if part:
            await self._pass_on(part, self._writer)

    async def _pass_on(self, part: bytes, writer: Writer) -> None:
        await _completed(self._files.guarded(writer.write(part)))

    async def _abort(self, writer: Writer) -> None:
        try:
            await self._files.guarded(writer.abort())
        except ComposerdError as exc:
            log.warning("an upload was not cleaned up, its file is removed once the attempt has ended: %s", exc)


class Upload(_FileWriter):
    """One file that a worker uploads; what was written is removed unless `complete` was called."""

    def __init__(self, files: Files, location: str, allowance: Allowance) -> None:
        super().__init__(files, location)
        self.size = 0
        self._allowance = allowance
        self._digest = hashlib.sha256()

    async def write(self, part: bytes) -> None:
        """Append a part. Raises `ArtifactTooLarge`, `StorageFull`, `Unavailable`."""
        self._allowance.take(len(part))
        self._files.space.take(len(part))
        self.size += len(part)
        await super().write(part)

    async def complete(self, name: str) -> Artifact:
        """Publish the file under a name, and return it once it is on stable storage.

        From then on the caller has to attach or remove the file.
        """
        await self.commit()
        return Artifact(name, self.size, self._digest.hexdigest(), self._location)

    async def _pass_on(self, part: bytes, writer: Writer) -> None:
        await asyncio.to_thread(self._digest.update, part)
        await super()._pass_on(part, writer)


async def _completed(call: Coroutine[Any, Any, R]) -> R:
    """Return the result of a call of a writer, and let it end first if this task is canceled.

    The task then aborts the upload, which a store allows only when nothing else is in progress.
    """
    calling = asyncio.create_task(call)
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        await asyncio.wait([calling])
        if not calling.cancelled():
            calling.exception()  # otherwise asyncio logs that it was never retrieved
        raise
    finally:
        del calling  # or else its exception and this frame would keep each other in memory
