"""Jobs that ended and that nobody unended depends on, each packed into a few bytes. What was decided of them is final.

A packed job is an `entries.Packed` as MessagePack, under its number among the rows. What many of them say alike (`Shape`)
is kept once. Ids, tokens and idempotency keys lead to numbers by way of an index that has no copy of them: what it finds
is compared with what is packed.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

import msgspec

from composerd.models import AttemptState, JobState, Key
from composerd_fs.journal.converting import artifact_fields, attempt_fields
from composerd_fs.journal.entries import Packed, Payload, Rest, ShapeFields
from composerd_fs.journal.frames import packed_place, unpacked_place
from composerd_fs.state.indexes import Numbered
from composerd_fs.state.interning import Made, artifact_of
from composerd_fs.state.job import Policy, Row, Run

_PARTS = 1 << 14
"""At a million jobs a part has sixty entries, which are searched in the time that a call takes."""
_SEQ = 6
_ENTRY = 8 + _SEQ

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_decode = msgspec.msgpack.Decoder(Packed).decode


class Shape(NamedTuple):
    """What many ended jobs have in common."""

    key: Key
    policy: Policy
    priority: int
    state: JobState
    attempt: AttemptState
    """Of the latest attempt; `unknown` if there was none."""
    lease: int
    confirm: bool


class Archive:
    """The packed ones among the numbered rows."""

    def __init__(self, numbered: Numbered, made: Made) -> None:
        self._numbered = numbered
        self._made = made
        self._ids = _Index()
        self._tokens = _Index()
        self._keys = _Index()
        self.shapes: list[Shape] = []
        self._numbers: dict[Shape, int] = {}
        self._used: list[int] = []
        """How many packed jobs have a shape."""
        self._unused: list[int] = []
        self.held = False
        """Whether the numbers of shapes that nobody has any more are left alone: a checkpoint is being taken."""

    # Looking.

    def find(self, job_id: UUID) -> Packed | None:
        """A packed job by its id."""
        wanted = job_id.bytes
        for seq in self._ids.find(wanted):
            packed = self._at(seq)
            if packed is not None and packed.id == wanted:
                return packed
        return None

    def find_token(self, token: UUID) -> Packed | None:
        """A packed job by the token of one of its attempts."""
        wanted = token.bytes
        for seq in self._tokens.find(wanted):
            packed = self._at(seq)
            if packed is not None and wanted in _tokens(packed):
                return packed
        return None

    def find_key(self, channel: str, key: str) -> Packed | None:
        """A packed job by its idempotency key."""
        for seq in self._keys.find(_digest(channel, key)):
            packed = self._at(seq)
            if (
                packed is not None
                and packed.rest is not None
                and packed.rest.idempotency_key == key
                and self.shapes[packed.shape].key.channel == channel
            ):
                return packed
        return None

    def _at(self, seq: int) -> Packed | None:
        found = self._numbered.get(seq)
        return _decode(found) if isinstance(found, bytes) else None

    # Packing.

    def add(self, row: Row) -> None:
        """Pack a job that is among the numbered rows, in its place."""
        packed = self._pack(row)
        self._numbered.replace(row.seq, _encode(packed))
        self._index(packed)

    def restore(self, data: bytes) -> Packed:
        """Take in a job that was packed when a checkpoint was taken."""
        packed = _decode(data)
        self._numbered[packed.seq] = data
        self._index(packed)
        return packed

    def learn(self, shapes: list[ShapeFields]) -> None:
        """Take in shapes from a checkpoint, behind those that are known."""
        for fields in shapes:
            shape = self._shape(fields)
            self._numbers[shape] = len(self.shapes)
            self.shapes.append(shape)
            self._used.append(0)

    def restored(self) -> None:
        """All of a checkpoint was taken in."""
        self._unused = [number for number, used in enumerate(self._used) if not used]

    def told(self, begin: int) -> list[ShapeFields]:
        """Shapes from a number on, for a checkpoint."""
        return [
            ShapeFields(
                shape.key.type,
                shape.key.arch,
                shape.key.channel,
                *shape.policy,
                shape.priority,
                shape.state.value,
                shape.attempt.value,
                shape.lease,
                shape.confirm,
            )
            for shape in self.shapes[begin:]
        ]

    def forget(self, packed: Packed) -> None:
        """A job is not packed any more; its place among the numbered rows is for the caller to change."""
        self._ids.discard(packed.id, packed.seq)
        for token in _tokens(packed):
            self._tokens.discard(token, packed.seq)
        shape = self.shapes[packed.shape]
        if packed.rest is not None and packed.rest.idempotency_key is not None:
            self._keys.discard(_digest(shape.key.channel, packed.rest.idempotency_key), packed.seq)
        self._used[packed.shape] -= 1
        if not self._used[packed.shape]:
            self._unused.append(packed.shape)

    def _index(self, packed: Packed) -> None:
        seq = packed.seq.to_bytes(_SEQ)
        self._ids.add(packed.id, seq)
        if packed.token is not None:
            self._tokens.add(packed.token, seq)
        self._used[packed.shape] += 1
        if packed.rest is None:
            return
        for one in packed.rest.attempts:
            self._tokens.add(one.token.bytes, seq)
        if packed.rest.idempotency_key is not None:
            channel = self.shapes[packed.shape].key.channel
            self._keys.add(_digest(channel, packed.rest.idempotency_key), seq)

    def _number(self, shape: Shape) -> int:
        number = self._numbers.get(shape)
        if number is None:
            while self._unused and not self.held:
                free = self._unused.pop()
                if self._used[free]:
                    continue  # somebody has it again
                self._numbers.pop(self.shapes[free], None)
                self.shapes[free] = shape
                self._numbers[shape] = free
                return free
            number = self._numbers[shape] = len(self.shapes)
            self.shapes.append(shape)
            self._used.append(0)
        return number

    def _shape(self, fields: ShapeFields) -> Shape:
        policy = Policy(
            fields.timeout,
            fields.max_retries,
            fields.retry_on_failure,
            fields.retry_backoff,
            fields.fail_with_dependency,
            fields.retention,
        )
        return Shape(
            self._made.key(Key(fields.channel, fields.type, fields.arch)),
            self._made.policy(policy),
            fields.priority,
            JobState(fields.state),
            AttemptState(fields.attempt),
            fields.lease,
            fields.confirm,
        )

    def _pack(self, row: Row) -> Packed:
        last = row.runs[-1] if row.runs else None
        plain = len(row.runs) <= 1 and row.worker == (last.worker if last else None) and row.number == len(row.runs)
        if last is None or not plain:
            state, lease, confirm, token, digest = AttemptState.UNKNOWN, 0, False, None, b""
        else:
            state, lease, confirm, token, digest = last.state, last.lease, last.confirm, last.token.bytes, last.digest
        assert row.finished_at is not None, "only what has ended is packed"
        return Packed(
            row.seq,
            self._number(Shape(row.key, row.policy, row.priority, row.state, state, lease, confirm)),
            row.id.bytes,
            row.queued_at,
            row.finished_at - row.queued_at,
            None if row.started_at is None else row.started_at - row.queued_at,
            packed_place(row.args),
            packed_place(row.result),
            token,
            digest,
            None if row.worker is None else row.worker.bytes,
            _rest(row, plain=plain),
        )

    def unpack(self, packed: Packed) -> Row:
        """A row like the one that was packed; changing it changes nothing."""
        shape = self.shapes[packed.shape]
        row = Row(UUID(bytes=packed.id), packed.seq, shape.key, shape.policy, shape.priority, packed.queued_at)
        row.state = shape.state
        row.finished_at = packed.queued_at + packed.finished
        row.started_at = None if packed.started is None else packed.queued_at + packed.started
        row.args, row.result = unpacked_place(packed.args), unpacked_place(packed.result)
        row.worker = None if packed.worker is None else self._made.worker(UUID(bytes=packed.worker))
        if packed.token is not None:
            run = Run(UUID(bytes=packed.token), row, 1, shape.lease, None, row.worker)
            run.state, run.confirm, run.digest = shape.attempt, shape.confirm, packed.digest
            row.runs, row.number = (run,), 1
        rest = packed.rest
        if rest is not None:
            row.number = rest.number
            row.retries, row.failures, row.returns = rest.retries, rest.failures, rest.returns
            row.not_before = rest.not_before
            row.dependencies = rest.dependencies
            row.dependents = dict.fromkeys(rest.dependents) if rest.dependents else None
            row.idempotency_key, row.fingerprint = rest.idempotency_key, rest.fingerprint
            row.artifacts = tuple([artifact_of(one) for one in rest.artifacts])
            if rest.attempts:
                row.runs = tuple(self._made.attempts(row, rest.attempts, {}))
        return row


decode = _decode
"""A packed job as it is packed: enough for a look at what shape it has."""


def places(data: bytes) -> tuple[Payload | None, Payload | None]:
    """Where the args and the result of a packed job are."""
    packed = _decode(data)
    return unpacked_place(packed.args), unpacked_place(packed.result)


def _rest(row: Row, *, plain: bool) -> Rest | None:
    rest = Rest(
        row.number,
        row.retries,
        row.failures,
        row.returns,
        row.not_before,
        row.dependencies,
        list(row.dependents) if row.dependents else [],
        row.idempotency_key,
        row.fingerprint,
        [artifact_fields(one) for one in row.artifacts],
        [] if plain else [attempt_fields(run) for run in row.runs],
    )
    return None if plain and rest == Rest(row.number) else rest


def _tokens(packed: Packed) -> list[bytes]:
    if packed.token is not None:
        return [packed.token]
    return [] if packed.rest is None else [one.token.bytes for one in packed.rest.attempts]


def _digest(channel: str, key: str) -> bytes:
    """Neither has white space in it."""
    return hashlib.blake2b(f"{channel} {key}".encode(), digest_size=16).digest()


class _Index:
    """Numbers by 16 bytes, of which it keeps eight: what it finds may be another's."""

    def __init__(self) -> None:
        self._parts: list[bytearray | None] = [None] * _PARTS

    def add(self, key: bytes, seq: bytes) -> None:
        """A number has this key."""
        at = hash(key) % _PARTS
        part = self._parts[at]
        if part is None:
            self._parts[at] = bytearray(key[8:] + seq)
        else:
            part += key[8:] + seq

    def find(self, key: bytes) -> Iterator[int]:
        """The numbers that may have it: its own, and rarely another."""
        part = self._parts[hash(key) % _PARTS]
        if part is None:
            return
        at = part.find(key[8:])
        while at >= 0:
            if at % _ENTRY == 0:
                yield int.from_bytes(part[at + 8 : at + _ENTRY])
            at = part.find(key[8:], at + 1)

    def discard(self, key: bytes, seq: int) -> None:
        """A number does not have this key any more."""
        number = hash(key) % _PARTS
        part = self._parts[number]
        assert part is not None, "what is discarded was added"
        entry = key[8:] + seq.to_bytes(_SEQ)
        at = part.find(entry)
        while at > 0 and at % _ENTRY:
            at = part.find(entry, at + 1)
        assert at >= 0, "what is discarded was added"
        part[at : at + _ENTRY] = part[-_ENTRY:]
        del part[-_ENTRY:]
        if not part:
            self._parts[number] = None
