"""What an artifact store promises: bytes under names, whole or not at all. As little as object storage can do.

A name, here a place, is given by composerd: `JOB/ATTEMPT/UPLOAD`, in ASCII letters, digits, `-` and `/`, at most 200
characters. No place is used for two uploads, so nothing that is there ever has to change. Which places belong to a job is
not the store's concern: the storage driver's record of an artifact says so, and composerd removes what no record names.

A store may raise `StorageFull` (it has no room) and `Unavailable` (it does not answer, or refuses) from every method;
whatever else it raises is taken for `Unavailable`. All methods may be called at the same time, from one event loop; none
may block it. Where several servers use one store, all this holds between them as well.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import ClassVar, Self

CONTRACT_VERSION = "1.0"
"""Of artifact stores. A store for another major version is refused."""


class Writer(ABC):
    """One artifact on its way in. Exactly one of `commit` and `abort` ends it; a crash is as good as `abort`."""

    @abstractmethod
    async def write(self, part: bytes) -> None:
        """Add to what was written. Parts have at least 256 KiB, but for the last one; they come one after the other."""

    @abstractmethod
    async def commit(self) -> None:
        """Return when all that was written is at its place, on stable storage.

        Until then nothing can be read there, and nothing if it raises, or is canceled, unless it is all there. If
        something is there already, from a copy that was made before, it is replaced at once.
        """

    @abstractmethod
    async def abort(self) -> None:
        """Leave nothing behind. May be called at any moment but during `write`, after a `commit` that raised as well."""


class ArtifactStore(ABC):
    """A place for artifacts."""

    contract: ClassVar[str] = CONTRACT_VERSION
    """The version of the contract that the store was written for: write it down, as a text."""

    name: ClassVar[str]
    """For messages and the log."""

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> Self:
        """Make the store that a URL with one of its schemes means. Opens nothing. Raises `StorageURLError`."""

    @abstractmethod
    async def start(self, *, create: bool) -> None:
        """Open it; with `create` make what it needs if that is not there, without find that out at its first use."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; also of a store that was never started, or is closed already."""

    @abstractmethod
    async def check(self) -> None:
        """Return if it takes artifacts now. Cheap: it is asked for every look at `/readyz`."""

    @abstractmethod
    async def create(self, place: str) -> Writer:
        """Begin an artifact."""

    @abstractmethod
    def read(self, place: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `stop`, `start` < `stop` ≤ its size, in parts of at most 1 MiB.

        Raises `ArtifactNotFound`, before the first part, if nothing is there. What is removed while it is read may be
        read on or fail with `Unavailable`; it is never cut short silently.
        """

    @abstractmethod
    async def size(self, place: str) -> int | None:
        """How many bytes are there; None if nothing is."""

    @abstractmethod
    def list(self, prefix: str) -> AsyncIterator[Sequence[str]]:
        """The places that begin so, some at a time, in any order; `prefix` is empty or ends with a slash.

        What was there before the call and is not removed meanwhile is among them. What was begun and neither committed
        nor aborted may be among them, under its place or a name of the store's own that begins so; it has to be, unless
        the store clears such remains away by itself.
        """

    @abstractmethod
    async def remove(self, places: Sequence[str]) -> None:
        """Remove what is at these places, which `list` may have named; nothing there is fine. May be done in part if it raises."""
