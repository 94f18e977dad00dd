"""Proves that parts of a damaged frame are whole, by arithmetic with its checksums. No files.

A frame has a checksum of its header, one of everything after it, and one of each payload. The CRC-32 of two pieces
together follows from theirs. So damage in a payload, or in one field of a header, leaves enough to prove the rest.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import msgspec

from composerd_fs.journal import entries as kinds
from composerd_fs.journal.entries import Entry, Payload
from composerd_fs.journal.frames import CHECK, FRAME_MAGIC, FrameHeader, length_of, offset_in_frame

_POLYNOMIAL = 0xEDB88320

_FIELDS = struct.Struct("<4sIIQII")
"""The header of a frame with its checksum."""

_HEAD = 24
"""Length of the header of a frame without its checksum."""

decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode


def combined(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two pieces of data together, given theirs and the length of the second."""
    return _shifted(first, length) ^ second


def _shifted(crc: int, length: int) -> int:
    """Return what a CRC-32 becomes by this number of bytes that are zero."""
    power = [_POLYNOMIAL, *(1 << n for n in range(31))]  # the effect of one bit on each bit of the CRC
    bits = 8 * length
    while bits:
        if bits & 1:
            crc = _times(power, crc)
        power = [_times(power, column) for column in power]
        bits >>= 1
    return crc


def _times(matrix: list[int], vector: int) -> int:
    product_ = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            product_ ^= column
        vector >>= 1
    return product_


def seed_of(header: bytes, body: bytes) -> int | None:
    """Return the CRC of the salt of a file whose own header is damaged, by its first frame; None if that is damaged."""
    magic, payloads, entries, _, crc, check = _FIELDS.unpack(header)
    if magic != FRAME_MAGIC or payloads + entries > len(body) or zlib.crc32(body[: payloads + entries]) != crc:
        return None
    wanted = check ^ zlib.crc32(header[:_HEAD])
    solved: dict[int, tuple[int, int]] = {}
    for bit in range(32):  # the columns of the effect of the header's length, made triangular
        column, made_of = _shifted(1 << bit, _HEAD), 1 << bit
        while column and column.bit_length() in solved:
            other, others = solved[column.bit_length()]
            column, made_of = column ^ other, made_of ^ others
        solved[column.bit_length()] = column, made_of
    seed = 0
    while wanted:
        column, made_of = solved[wanted.bit_length()]
        wanted, seed = wanted ^ column, seed ^ made_of
    return seed


def repaired_header(header: bytes, body: bytes, seed: int, number: int | None) -> FrameHeader | None:
    """Return the header of a frame whose header is damaged, or None if it cannot be proven.

    `body` is what is between it and the next frame, `number` the number that the frame should have, if that is known.
    """
    magic, payloads, entries, written, crc, check = _FIELDS.unpack(header)
    size, actual = len(body), zlib.crc32(body)
    for p, e in {(payloads, size - payloads), (size - entries, entries)}:
        for n in {written, written if number is None else number}:
            if p >= 0 and e >= 0:
                whole = _FIELDS.pack(FRAME_MAGIC, p, e, n, actual, 0)[:_HEAD]
                if zlib.crc32(whole, seed) == check:
                    return FrameHeader(p, e, n, actual)
    if (magic, payloads + entries, written, crc) == (FRAME_MAGIC, size, number, actual):
        return FrameHeader(payloads, entries, written, crc)  # only its checksum is damaged
    return None


def proven_entries(header: FrameHeader, body: bytes) -> list[Entry] | None:
    """Return the entries of a frame whose content does not match its checksum, if the damage is in payloads only."""
    found = unproven_entries(header, body)
    spans = sorted(span for entry in found or () for span in _spans_in(entry))
    end = 0
    for offset, length in spans:
        if offset != end:
            return None
        end += CHECK + length
    if not spans or end != header.payloads:
        return None
    parts = [_Part.of(body, *span) for span in spans]
    rest = zlib.crc32(body[header.payloads :]), len(body) - header.payloads
    wrong = [part for part in parts if part.stored != part.actual]
    # Either the payload is damaged, or its checksum is: then the frame has the checksum of what is there.
    choices = product((True, False), repeat=len(wrong)) if len(wrong) <= 4 else [(True,) * len(wrong)]
    for choice in choices:
        trusted = dict(zip(map(id, wrong), choice, strict=True))
        crc = 0
        for part in parts:
            payload = part.stored if trusted.get(id(part), True) else part.actual
            crc = combined(crc, zlib.crc32(payload.to_bytes(CHECK, "little")), CHECK)
            crc = combined(crc, payload, part.length)
        if combined(crc, *rest) == header.crc:
            return found
    return None


def unproven_entries(header: FrameHeader, body: bytes) -> list[Entry] | None:
    """Return what can be decoded of a damaged frame's entries; None if nothing can. Any of it may be wrong."""
    try:
        return decode_entries(memoryview(body)[header.payloads :])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Part(NamedTuple):
    """A payload in a frame: its checksum as it is stored, and that of what is there."""

    stored: int
    actual: int
    length: int

    @classmethod
    def of(cls, body: bytes, offset: int, length: int) -> "_Part":
        begin = offset + CHECK
        stored = int.from_bytes(body[offset:begin], "little")
        return cls(stored, zlib.crc32(body[begin : begin + length]), length)


def _spans_in(entry: Entry) -> Iterator[tuple[int, int]]:
    """Yield the offsets and lengths of the payloads of an entry within its frame."""
    payloads: list[Payload | None] = []
    if isinstance(entry, kinds.EnqueuedEntry):
        payloads = [job.args for job in entry.jobs]
    elif isinstance(entry, kinds.FinishedEntry):
        payloads = [entry.result]
    elif isinstance(entry, kinds.RestoredEntry):
        payloads = [entry.job.args, entry.result]
    elif isinstance(entry, kinds.MovedEntry):
        payloads = [entry.args, entry.result]
    return ((offset_in_frame(one), length_of(one)) for one in payloads if isinstance(one, int))
