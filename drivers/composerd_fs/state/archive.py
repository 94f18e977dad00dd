"""The archive: jobs that have ended, and that no unended job depends on, each packed into a few bytes.

This module alone knows packed bytes: a `PackedJob` as MessagePack, also in checkpoints. What many archived jobs have in
common (`Shape`) is kept once. Ids, tokens and idempotency keys lead to sequences through indexes that have no copy of
them, so what they find has to be compared with the job itself.
"""

import hashlib
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from uuid import UUID

import msgspec

from composerd.driver.records import Policy
from composerd.models import AttemptState, JobState, Key
from composerd_fs.journal.converting import (
    Shape,
    packed,
    payload_of,
    shape_fields,
    shape_of,
    shape_of_fields,
    unpacked,
)
from composerd_fs.journal.entries import PackedJob, PackedRest, Payload, ShapeFields
from composerd_fs.state.indexes import DigestIndex
from composerd_fs.state.interning import Interning
from composerd_fs.state.job import JobRecord

_CHUNK = 64

_DROPPED_AT_ONCE = 64
"""The most shapes that are dropped at once, when a job leaves the archive."""

_NO_SHAPE = Shape(
    Key("", "", None), Policy(None, 0, 0, 0, False, None), 0, JobState.CANCELED, AttemptState.UNKNOWN, 0, confirm=False
)
"""Stands in the place of a shape that was dropped, also in a checkpoint."""

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_decode = msgspec.msgpack.Decoder(PackedJob).decode


class _RestWithoutEdges(PackedRest, array_like=True, gc=False):
    """The fields of `PackedRest`, without reading the edges."""

    dependencies: msgspec.Raw = msgspec.Raw()  # type: ignore[assignment]  # read as bytes, and dropped
    dependents: msgspec.Raw = msgspec.Raw()  # type: ignore[assignment]


class _Listed(PackedJob, array_like=True, gc=False):
    """The fields of a `PackedJob`, without reading the edges."""

    rest: _RestWithoutEdges | None


_decode_listed = msgspec.msgpack.Decoder(_Listed).decode


_LENGTHS = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
"""The length of an integer in MessagePack by its first byte; any other first byte is the integer."""


def _shape_in(data: bytes) -> int:
    """Return the number of the shape of a packed job without decoding the job, which may have many edges."""
    at = 1 + _LENGTHS.get(data[1], 1)
    length = _LENGTHS.get(data[at], 1)
    return data[at] if length == 1 else int.from_bytes(data[at + 1 : at + length])


def _id_in(data: bytes) -> UUID:
    """Return the id of a packed job without decoding the job."""
    at = 1 + _LENGTHS.get(data[1], 1)
    at += _LENGTHS.get(data[at], 1) + 2
    return UUID(int=int.from_bytes(data[at : at + 16]))


class Numbered:
    """Table of all jobs by sequence; archived ones are kept as bytes.

    Sequences are dense, so that lists of jobs, called chunks, take a tenth of the memory that a dictionary would.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, list[JobRecord | bytes | None]] = {}
        self._sizes: dict[int, int] = {}
        """The number of jobs in each chunk."""

    def __setitem__(self, sequence: int, job: JobRecord | bytes) -> None:
        """Add a job under a sequence that no other has."""
        chunk, at = divmod(sequence, _CHUNK)
        jobs = self._chunks.get(chunk)
        if jobs is None:
            jobs = self._chunks[chunk] = [None] * _CHUNK
            self._sizes[chunk] = 0
        jobs[at] = job
        self._sizes[chunk] += 1

    def __delitem__(self, sequence: int) -> None:
        """Remove the job of a sequence."""
        chunk, at = divmod(sequence, _CHUNK)
        self._chunks[chunk][at] = None
        self._sizes[chunk] -= 1
        if not self._sizes[chunk]:
            del self._chunks[chunk], self._sizes[chunk]

    def replace(self, sequence: int, job: JobRecord | bytes) -> None:
        """Replace the job of a sequence by its other form, a record or packed bytes."""
        chunk, at = divmod(sequence, _CHUNK)
        self._chunks[chunk][at] = job

    def get(self, sequence: int) -> JobRecord | bytes | None:
        """Return the job of a sequence, or None."""
        jobs = self._chunks.get(sequence // _CHUNK)
        return None if jobs is None else jobs[sequence % _CHUNK]

    def chunks(self) -> list[int]:
        """Return the numbers of the chunks that have jobs, in order."""
        return sorted(self._chunks)

    def chunk(self, number: int) -> Iterator[tuple[int, JobRecord | bytes]]:
        """Iterate over the sequences and the jobs of a chunk, in order."""
        begin = number * _CHUNK
        return ((begin + at, job) for at, job in enumerate(self._chunks.get(number, ())) if job is not None)

    @staticmethod
    def chunk_of(sequence: int) -> int:
        """Return the number of the chunk that a sequence belongs to."""
        return sequence // _CHUNK


class Archive:
    """Packs and unpacks jobs, and indexes them.

    For an id, a token or an idempotency key it returns the sequences of the archived jobs that it may belong to.
    """

    def __init__(self, interning: Interning) -> None:
        self.ids = DigestIndex()
        self.tokens = DigestIndex()
        self.keys = DigestIndex()
        self.shapes: list[Shape] = []
        self.during_snapshot = False
        """True while a checkpoint is taken, so that no shape changes its number and no job loses a dependent."""
        self._interning = interning
        self._numbers: dict[Shape, int] = {}
        self._used: list[int] = []
        """The number of archived jobs that have each shape."""
        self._unused: list[int] = []
        """The numbers of shapes that no job had when they were added here."""
        self._free: list[int] = []
        """The numbers that a new shape may get, as a heap. Some may have been given away, or be no more."""

    # Jobs.

    def add(self, job: JobRecord) -> bytes:
        """Archive a job, and return its packed bytes."""
        one = packed(job, self._number(shape_of(job)))
        self._index(one)
        return _encode(one)

    def unpack(self, data: bytes) -> JobRecord:
        """Return the record of an archived job. Changing it does not change the archive."""
        one = _decode(data)
        return unpacked(one, self.shapes[one.shape])

    def unpack_listed(self, data: bytes) -> JobRecord:
        """Return the record of an archived job without its edges, which is faster if there are many."""
        one: PackedJob = _decode_listed(data)
        if one.rest is not None:
            one.rest.dependencies, one.rest.dependents = (), []
        return unpacked(one, self.shapes[one.shape])

    def discard(self, data: bytes, job: JobRecord) -> None:
        """Remove a job, which is given packed and unpacked, from the archive."""
        self.ids.discard(job.id.bytes, job.sequence)
        for attempt in job.attempts:
            self.tokens.discard(attempt.token.bytes, job.sequence)
        if job.idempotency_key is not None:
            self.keys.discard(key_digest(job.key.channel, job.idempotency_key), job.sequence)
        shape = _shape_in(data)
        self._used[shape] -= 1
        if not self._used[shape]:
            self._unused.append(shape)
        if not self.during_snapshot:
            self.drop_unused()

    def payloads(self, data: bytes) -> tuple[Payload | None, Payload | None]:
        """Return the args and the result of an archived job."""
        one = _decode(data)
        return payload_of(one.args), payload_of(one.result)

    def id_of(self, data: bytes) -> UUID:
        """Return the id of an archived job, which is faster than to unpack it."""
        return _id_in(data)

    def state_and_key(self, data: bytes) -> tuple[JobState, Key]:
        """Return the state and the key of an archived job, which is faster than to unpack it."""
        shape = self.shapes[_shape_in(data)]
        return shape.state, shape.key

    def _index(self, one: PackedJob) -> None:
        self.ids.add(one.id, one.sequence)
        if one.token is not None:
            self.tokens.add(one.token, one.sequence)
        self._used[one.shape] += 1
        if one.rest is None:
            return
        for attempt in one.rest.attempts:
            self.tokens.add(attempt.token.bytes, one.sequence)
        if one.rest.idempotency_key is not None:
            channel = self.shapes[one.shape].key.channel
            self.keys.add(key_digest(channel, one.rest.idempotency_key), one.sequence)

    # Shapes.

    def _number(self, shape: Shape) -> int:
        number = self._numbers.get(shape)
        if number is not None:
            return number
        while self._free and not self.during_snapshot:
            number = heappop(self._free)
            if number < len(self.shapes) and self.shapes[number] is _NO_SHAPE:
                self.shapes[number] = shape
                self._numbers[shape] = number
                return number
        return self._append(shape)

    def _append(self, shape: Shape) -> int:
        number = self._numbers[shape] = len(self.shapes)
        self.shapes.append(shape)
        self._used.append(0)
        return number

    def end_snapshot(self) -> None:
        """Allow shapes to change their numbers again. Call `drop_unused` afterwards until it returns False."""
        self.during_snapshot = False

    def drop_unused(self) -> bool:
        """Drop some of the shapes that no job has any more, and return True if there may be others."""
        if not self._unused or self.during_snapshot:
            return False
        for number in self._unused[-_DROPPED_AT_ONCE:]:
            if number < len(self.shapes) and not self._used[number] and self.shapes[number] is not _NO_SHAPE:
                self._numbers.pop(self.shapes[number], None)
                self.shapes[number] = _NO_SHAPE
                heappush(self._free, number)
        del self._unused[-_DROPPED_AT_ONCE:]
        while self.shapes and self.shapes[-1] is _NO_SHAPE:
            self.shapes.pop()
            self._used.pop()
        if len(self._free) > 2 * len(self.shapes):
            self._free = [number for number in range(len(self.shapes)) if self.shapes[number] is _NO_SHAPE]
        if not self._numbers:
            self._numbers.clear()  # gives back the memory of the dictionary too
        return bool(self._unused)

    # Checkpoints.

    def shapes_since(self, number: int) -> list[ShapeFields]:
        """Return the shapes from a number on, for a checkpoint."""
        return [shape_fields(shape) for shape in self.shapes[number:]]

    def restore_shapes(self, shapes: Sequence[ShapeFields]) -> None:
        """Add shapes from a checkpoint, after those that are known."""
        for fields in shapes:
            self._append(shape_of_fields(fields, self._interning))

    def restore(self, data: bytes) -> tuple[PackedJob, Shape]:
        """Add a packed job from a checkpoint, and return its fields and its shape."""
        one = _decode(data)
        self._index(one)
        return one, self.shapes[one.shape]

    def finish_restore(self) -> None:
        """Count the jobs that have each shape, because the whole checkpoint was restored."""
        for number, used in enumerate(self._used):
            self._interning.count(self.shapes[number].key, self.shapes[number].policy, used)
            if not used:
                self._unused.append(number)


def key_digest(channel: str, key: str) -> bytes:
    """Return 16 bytes that identify an idempotency key in a channel; neither contains white space."""
    return hashlib.blake2b(f"{channel} {key}".encode(), digest_size=16).digest()
