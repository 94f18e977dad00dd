"""The contract of an artifact store: bytes under names, each file complete or absent. Object storage can do all of it.

composerd chooses the name of each file and calls it a location: `JOB/ATTEMPT/UPLOAD`, in ASCII letters, digits, `-` and
`/`, at most 200 characters. No location is used for two uploads, so a stored file never has to change. A store need not
know which files belong to a job: the storage driver records that, and composerd removes every file without a record.

Every method may raise `StorageFull` (the store has no room) and `Unavailable` (the store does not answer, or refuses).
Any other exception is treated as `Unavailable`. All methods may be called concurrently, from one event loop, and must
not block it. When several servers use one store, the contract holds between them as well.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import ClassVar, Self

from composerd.free_space import DiskSpace

CONTRACT_VERSION = "1.1"
"""The version of this contract. A store that was written for another major version is refused."""


class Writer(ABC):
    """An artifact that is being written.

    Exactly one call of `commit` or `abort` ends it. A crash has the effect of `abort`.
    """

    @abstractmethod
    async def write(self, part: bytes) -> None:
        """Append a part.

        Every part but the last has at least 256 KiB. Calls never overlap.
        """

    @abstractmethod
    async def commit(self) -> None:
        """Publish everything that was written at the artifact's location, and return once it is on stable storage.

        Before this call nothing can be read at the location. If it raises or is canceled, either nothing or the
        complete artifact is there. If the location already has a file, from an earlier copy, it is replaced
        atomically.
        """

    @abstractmethod
    async def abort(self) -> None:
        """Remove everything that was written.

        May be called at any time except during `write`, also after a `commit` that raised.
        """


class ArtifactStore(ABC):
    """A backend that keeps artifacts."""

    contract: ClassVar[str] = CONTRACT_VERSION
    """The version of the contract that the store was written for. Write it as a literal string."""

    name: ClassVar[str]
    """The store's name in messages and in the log."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> Self:
        """Create the store that a URL with one of its schemes names, without opening anything.

        Raises `StorageURLError`.
        """

    @abstractmethod
    async def start(self, *, create: bool) -> None:
        """Open the store.

        If the store does not exist yet, create it when `create` is true. Otherwise its first use fails.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release all resources. Also called on a store that was never started or is already closed."""

    @abstractmethod
    async def check(self) -> None:
        """Return if the store accepts artifacts now, and raise `StorageFull` or `Unavailable` otherwise.

        After a write has found no room, it finds out by itself whether there is some again. It has to be cheap:
        `/readyz` calls it, at most once a second.
        """

    async def free_space(self) -> DiskSpace | None:
        """Return the space of the file system that the store writes to, or None if the store cannot know it.

        It is called once a second, and has to be cheap.
        """
        return None

    @abstractmethod
    async def create(self, location: str) -> Writer:
        """Begin an artifact."""

    @abstractmethod
    def read(self, location: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` up to `stop`, in parts of at most 1 MiB.

        `start` < `stop` ≤ the artifact's size. Raises `ArtifactNotFound` before the first part if there is no artifact
        at the location. If the artifact is removed during the read, either continue or raise `Unavailable`; never end
        early without an error.
        """

    @abstractmethod
    async def size(self, location: str) -> int | None:
        """Return the artifact's size in bytes, or None if there is no artifact at the location."""

    @abstractmethod
    def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        """Yield the locations that begin with `prefix`, some at a time, in any order.

        `prefix` is empty or ends with a slash. Every artifact that was there before the call and is not removed
        meanwhile has to be listed. Uploads that were neither committed nor aborted may be listed, under their location
        or under another name that begins with it; they have to be, unless the store removes them by itself.
        """

    @abstractmethod
    async def remove(self, locations: Sequence[str]) -> None:
        """Remove the files at these locations, which may be any names that `list` has returned.

        Locations without a file are ignored. If the call raises, some of the files may have been removed.
        """
