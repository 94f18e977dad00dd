"""Sparse segments: their live payloads are copied to the end of the journal, so that the segments can be removed."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from composerd_fs.journal import frames
from composerd_fs.journal.entries import Payload
from composerd_fs.journal.layout import segment_name
from composerd_fs.journal.turn import Turn
from composerd_fs.journal.writer import Journal
from composerd_fs.state.commands import CopiedPayloads
from composerd_fs.state.table import Table

COPIED_AT_ONCE = 1024 * 1024
"""Bytes of payloads that are copied in one write, unless a single payload is larger."""

T = TypeVar("T")


class BetweenFlushes(Protocol):
    """Calls functions on the table between two flushes."""

    def __call__(self, function: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        """Call a function with its arguments, and return its return value."""


class _Found(NamedTuple):
    """A job that has payloads to be copied: their locations, or None for a payload that is not copied."""

    job_id: UUID
    args: int | None
    result: int | None

    @property
    def size(self) -> int:
        """The bytes that the payloads take in the journal."""
        return sum(frames.span_of(one)[2] for one in (self.args, self.result) if one is not None)


class SparseSegments:
    """Finds the segments of a journal that are sparse, and copies what jobs have in them.

    `copy` writes payloads again, and returns when they are on the disk.
    """

    def __init__(
        self,
        table: Table,
        journal: Journal,
        between_flushes: BetweenFlushes,
        copy: Callable[[Sequence[CopiedPayloads]], Awaitable[None]],
    ) -> None:
        self._table = table
        self._journal = journal
        self._between_flushes = between_flushes
        self._copy_payloads = copy

    def find(self, segments: Sequence[int], live: Mapping[int, int]) -> set[int]:
        """Return the segments that are less than half live."""
        directory = self._journal.directory
        return {
            number for number in segments if number in live and 2 * live[number] < directory.size(segment_name(number))
        }

    async def empty(self, segments: set[int]) -> None:
        """Copy the live payloads of some segments. Raises `Unavailable` if one cannot be read."""
        for chunk in await self._between_flushes(self._table.jobs.by_sequence.chunks):
            turn = Turn()
            found = await self._between_flushes(self._found, chunk, segments)
            while found:
                some = [found.pop()]
                size = some[0].size
                while found and size < COPIED_AT_ONCE:
                    some.append(found.pop())
                    size += some[-1].size
                await self._copy(some)
            await turn.over()

    def _found(self, chunk: int, segments: set[int]) -> list[_Found]:
        """Return the jobs of a chunk that have payloads in some segments."""
        found: list[_Found] = []
        for sequence, args, result in self._table.jobs.payloads_in(chunk):
            args_location, result_location = _in(segments, args), _in(segments, result)
            if args_location is not None or result_location is not None:
                job = self._table.jobs.at(sequence)
                assert job is not None, "the chunk has a job of this sequence"
                found.append(_Found(job.id, args_location, result_location))
        return found

    async def _copy(self, found: Sequence[_Found]) -> None:
        locations = [one for _, args, result in found for one in (args, result) if one is not None]
        read = dict(zip(locations, await self._journal.read_many(locations), strict=True))
        await self._copy_payloads(
            [
                CopiedPayloads(
                    job_id,
                    None if args is None else read[args],
                    None if result is None else read[result],
                    args,
                    result,
                )
                for job_id, args, result in found
            ]
        )


def _in(segments: set[int], payload: Payload | None) -> int | None:
    return payload if isinstance(payload, int) and frames.span_of(payload)[0] in segments else None
