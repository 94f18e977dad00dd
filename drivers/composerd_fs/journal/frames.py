r"""The bytes of the journal: headers of segments and frames, their checksums, and the locations of payloads. No files.

A segment is a header of 32 bytes, then frames:

    8 bytes   magic "cdjrnl\r\n"
    2 bytes   version of the format: 1
    2 bytes   kind: 0 journal, 1 checkpoint
    4 bytes   number of the segment, from 1; of a checkpoint: the first segment after it
    12 bytes  salt: random, new for each file
    4 bytes   CRC-32 of the 28 bytes before

A frame is what one flush wrote: a header of 28 bytes, then payloads, then entries:

    4 bytes   magic "cdF\n"
    4 bytes   length of the payloads together
    4 bytes   length of the entries
    8 bytes   number of the frame, counted through all segments, from 1
    4 bytes   CRC-32 of payloads and entries
    4 bytes   CRC-32 of the 24 bytes before, with the CRC-32 of the salt as its start value

Because of the salt no payload can look like a frame. Numbers are little-endian. Each payload follows its own
CRC-32 (4 bytes). The entries are a MessagePack array of `composerd_fs.journal.entries`, in which a payload is its
location as an integer: the offset of its CRC-32 from the first byte after the frame's header, times 2**32, plus its
length without the CRC-32. In memory a location also has the segment, and the offset counts from the start of the file
(`base` is the difference). A payload of up to 48 bytes is in the entry itself.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

VERSION = 1

SEGMENT_MAGIC = b"cdjrnl\r\n"
FRAME_MAGIC = b"cdF\n"

_SEGMENT = struct.Struct("<8sHHI12s")
_FRAME = struct.Struct("<4sIIQI")
_CRC = struct.Struct("<I")

SEGMENT_HEADER = _SEGMENT.size + _CRC.size
FRAME_HEADER = _FRAME.size + _CRC.size
SALT_SIZE = 12
CHECK = _CRC.size
"""The length of the checksum before each payload."""

JOURNAL = 0
CHECKPOINT = 1

_SHIFT = 32
_MASK = (1 << _SHIFT) - 1

Span: TypeAlias = tuple[int, int, int]
"""A payload's segment, the offset of its checksum in the file, and its length with the checksum."""


class SegmentHeader(NamedTuple):
    """The first bytes of a segment or of a checkpoint."""

    version: int
    kind: int
    number: int
    salt: bytes

    @property
    def seed(self) -> int:
        """The CRC-32 of the salt, which the checksums of headers of frames start with."""
        return zlib.crc32(self.salt)


class FrameHeader(NamedTuple):
    """The first bytes of a frame."""

    payloads: int
    entries: int
    number: int
    crc: int

    @property
    def size(self) -> int:
        """The length of the whole frame."""
        return FRAME_HEADER + self.payloads + self.entries


def pack_segment_header(number: int, salt: bytes, kind: int = JOURNAL) -> bytes:
    """Return the header of a new segment or of a checkpoint."""
    head = _SEGMENT.pack(SEGMENT_MAGIC, VERSION, kind, number, salt)
    return head + _CRC.pack(zlib.crc32(head))


def unpack_segment_header(data: bytes) -> SegmentHeader | None:
    """Return the header at the start of `data`, or None if there is none or it is damaged."""
    if len(data) < SEGMENT_HEADER or _CRC.unpack_from(data, _SEGMENT.size)[0] != zlib.crc32(data[: _SEGMENT.size]):
        return None
    magic, version, kind, number, salt = _SEGMENT.unpack_from(data)
    return SegmentHeader(version, kind, number, salt) if magic == SEGMENT_MAGIC else None


def pack_frame(number: int, salt: bytes, payloads: list[bytes], entries: bytes) -> bytes:
    """Return a whole frame. `payloads` has each payload after its checksum, both as items."""
    size = 0
    crc = 0
    for payload in payloads:
        size += len(payload)
        crc = zlib.crc32(payload, crc)
    crc = zlib.crc32(entries, crc)
    head = _FRAME.pack(FRAME_MAGIC, size, len(entries), number, crc)
    return b"".join((head, _CRC.pack(zlib.crc32(head, zlib.crc32(salt))), *payloads, entries))


def unpack_frame_header(data: bytes, seed: int) -> FrameHeader | None:
    """Return the header at the start of `data`, or None if there is no header of a file whose salt has this CRC-32."""
    if len(data) < FRAME_HEADER:
        return None
    (check,) = _CRC.unpack_from(data, _FRAME.size)
    if check != zlib.crc32(data[: _FRAME.size], seed):
        return None
    magic, payloads, entries, number, crc = _FRAME.unpack_from(data)
    return FrameHeader(payloads, entries, number, crc) if magic == FRAME_MAGIC else None


def check_of(payload: bytes) -> bytes:
    """Return the checksum that stands before a payload."""
    return _CRC.pack(zlib.crc32(payload))


def check_of_pieces(pieces: Iterable[bytes]) -> bytes:
    """Return the checksum that stands before a payload, which is given in pieces."""
    crc = 0
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    return _CRC.pack(crc)


def unpack_payload(checked: bytes) -> bytes | None:
    """Return the payload that was read with its checksum, or None if they do not match."""
    payload = checked[CHECK:]
    return payload if checked[:CHECK] == check_of(payload) else None


def relative(offset: int, length: int) -> int:
    """Return the location of a payload within its frame."""
    return (offset << _SHIFT) | length


def base(segment: int, offset: int) -> int:
    """Return the number that makes a location within a frame absolute, if the frame's payloads begin at that offset."""
    return segment << 2 * _SHIFT | offset << _SHIFT


def length_of(location: int) -> int:
    """Return the length of the payload at a location, without its checksum."""
    return location & _MASK


def offset_in_frame(location: int) -> int:
    """Return the offset of a payload within its frame, by its location there."""
    return location >> _SHIFT & _MASK


def span_of(location: int) -> Span:
    """Return the bytes of an absolute location."""
    return location >> 2 * _SHIFT, location >> _SHIFT & _MASK, (location & _MASK) + CHECK


def location_of(span: Span) -> int:
    """Return the absolute location of a span; the opposite of `span_of`."""
    segment, offset, length = span
    return base(segment, offset) | length - CHECK
