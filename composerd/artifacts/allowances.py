"""Allowances of running attempts: how many files they may still upload, and how large, with those that are on the way.

Concurrent uploads of an attempt through this server count together, so they never exceed its limits, not even for a
moment. What the attempt uploads through another server counts once it is attached: there the storage decides.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from uuid import UUID

from composerd.artifact_values import Exceeded
from composerd.errors import ArtifactsTooLarge, ArtifactTooLarge, ShorterUpload, TooManyArtifacts
from composerd.models import Artifact


class Allowances:
    """The attempts that are uploading files, and the limits of each."""

    def __init__(self, max_size: int, max_files: int, max_total: int) -> None:
        """Set the largest size of one file, and the largest number and total size of the files of an attempt."""
        self.max_size = max_size
        self.max_files = max_files
        self.max_total = max_total
        self._attempts: dict[UUID, _Attempt] = {}

    @asynccontextmanager
    async def upload(
        self, token: UUID, name: str, attached: Callable[[], Awaitable[Iterable[Artifact]]]
    ) -> AsyncIterator["Allowance"]:
        """Count an upload for the length of a block. `attached` returns the files that the attempt has.

        Raises `TooManyArtifacts`.
        """
        attempt = self._attempts.setdefault(token, _Attempt())
        attempt.users += 1
        try:
            if attempt.attached is None:
                found = {one.name: one.size for one in await attached()}
                if attempt.attached is None:  # no other upload has asked meanwhile
                    attempt.attached = found
            if name not in attempt.names and len(attempt.names) >= self.max_files:
                raise self.error(Exceeded.FILES)
            allowance = Allowance(self, attempt, name)
            try:
                yield allowance
            finally:
                allowance.end()
        finally:
            attempt.users -= 1
            if not attempt.users:
                del self._attempts[token]

    def error(self, exceeded: Exceeded) -> ArtifactTooLarge | ShorterUpload:
        """Return the error for the reason for which an attempt may not have a file."""
        if exceeded is Exceeded.SHORTER:
            problem = "a longer artifact of this name is stored; repeat with a Content-Length or a Content-Digest"
            return ShorterUpload(problem=problem)
        if exceeded is Exceeded.FILES:
            problem = f"the attempt would have more than {self.max_files} artifacts"
            return TooManyArtifacts(problem, problem=problem, limit=self.max_files)
        problem = f"all artifacts of the attempt together would have more than {self.max_total} bytes"
        return ArtifactsTooLarge(problem, problem=problem, limit=self.max_total)


class _Attempt:
    """The files of one attempt: those that are attached, and those that are being uploaded."""

    def __init__(self) -> None:
        self.users = 0
        """The uploads that need this object."""
        self.attached: dict[str, int] | None = None
        """The sizes of the attached files by name; None until they are known."""
        self.uploading: Counter[str] = Counter()
        self.arrived = 0
        """The bytes of all uploads that have not ended."""
        self.total = 0
        """The bytes of all files. An attached file that is being replaced does not count."""

    @property
    def names(self) -> set[str]:
        """The names of the files that the attempt will have if every upload succeeds."""
        return {*(self.attached or ()), *self.uploading}

    def recount(self) -> None:
        """Compute `total` after the names have changed."""
        kept = sum(size for name, size in (self.attached or {}).items() if name not in self.uploading)
        self.total = kept + self.arrived


class Allowance:
    """The number of bytes that one upload may still take."""

    def __init__(self, allowances: Allowances, attempt: _Attempt, name: str) -> None:
        self._allowances = allowances
        self._attempt = attempt
        self._name = name
        self._size = 0
        attempt.uploading[name] += 1
        attempt.recount()

    def check(self, size: int) -> None:
        """Raise `ArtifactTooLarge` or `ArtifactsTooLarge` if the upload may not have so many more bytes."""
        limits = self._allowances
        if self._size + size > limits.max_size:
            raise ArtifactTooLarge(limit=limits.max_size)
        if self._attempt.total + size > limits.max_total:
            raise limits.error(Exceeded.BYTES)

    def take(self, size: int) -> None:
        """Count bytes that have arrived. Raises what `check` raises."""
        self.check(size)
        self._size += size
        self._attempt.arrived += size
        self._attempt.total += size

    def attached(self) -> None:
        """Note that the file is attached to the attempt now."""
        assert self._attempt.attached is not None
        self._attempt.attached[self._name] = self._size

    def end(self) -> None:
        """Stop counting the upload. What is attached goes on counting."""
        attempt = self._attempt
        attempt.arrived -= self._size
        attempt.uploading[self._name] -= 1
        if not attempt.uploading[self._name]:
            del attempt.uploading[self._name]
        attempt.recount()
