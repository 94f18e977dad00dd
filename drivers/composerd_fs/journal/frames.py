r"""The bytes of the journal: headers of segments and frames, their checks, and places of payloads. No files.

A segment is a header of 32 bytes, then frames:

    8 bytes   magic "cdjrnl\\r\\n"
    2 bytes   version of the format, 1
    2 bytes   kind: 0 journal, 1 checkpoint
    4 bytes   number of the segment, from 1; of a checkpoint: the first segment that goes on from it
    12 bytes  salt: random, new for each segment
    4 bytes   CRC-32 of the 28 bytes before

A frame is what one flush wrote, of all kinds of operation: a header of 28 bytes, then payloads, then records.

    4 bytes   magic "cdF\\n" 4 bytes   length of the payloads together 4 bytes   length of the records 8 bytes
    sequence number of the frame, counted through all segments, from 1 4 bytes   CRC-32 of payloads and records 4 bytes
    CRC-32 of the 24 bytes before, begun with the CRC-32 of the segment's salt: no payload can look like a frame

Numbers are little-endian. Payloads lie one after the other as they came, each behind its own CRC-32 (4 bytes); records
are a MessagePack array of `composerd_fs.journal.entries`, in which a payload is an integer: the offset of its CRC from the first
byte behind the frame's header, times 2**32, plus its length without the CRC. A payload of up to 48 bytes is in the record
itself.
"""

import struct
import zlib
from typing import NamedTuple

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
"""What stands before each payload: its checksum."""

JOURNAL = 0
CHECKPOINT = 1

_SHIFT = 32
_MASK = (1 << _SHIFT) - 1


class SegmentHeader(NamedTuple):
    """The first bytes of a segment."""

    version: int
    kind: int
    number: int
    salt: bytes


class FrameHeader(NamedTuple):
    """The first bytes of a frame."""

    payloads: int
    records: int
    seq: int
    crc: int

    @property
    def size(self) -> int:
        """Of the whole frame."""
        return FRAME_HEADER + self.payloads + self.records


def pack_segment_header(number: int, salt: bytes, kind: int = JOURNAL) -> bytes:
    """The header of a new segment, or of a checkpoint."""
    head = _SEGMENT.pack(SEGMENT_MAGIC, VERSION, kind, number, salt)
    return head + _CRC.pack(zlib.crc32(head))


def unpack_segment_header(data: bytes) -> SegmentHeader | None:
    """None if it is none."""
    if len(data) < SEGMENT_HEADER or _CRC.unpack_from(data, _SEGMENT.size)[0] != zlib.crc32(data[: _SEGMENT.size]):
        return None
    magic, version, kind, number, salt = _SEGMENT.unpack_from(data)
    return SegmentHeader(version, kind, number, salt) if magic == SEGMENT_MAGIC else None


def pack_frame(seq: int, salt: bytes, payloads: list[bytes], records: bytes) -> bytes:
    """A whole frame."""
    size = 0
    crc = 0
    for payload in payloads:
        size += len(payload)
        crc = zlib.crc32(payload, crc)
    crc = zlib.crc32(records, crc)
    head = _FRAME.pack(FRAME_MAGIC, size, len(records), seq, crc)
    return b"".join((head, _CRC.pack(zlib.crc32(head, zlib.crc32(salt))), *payloads, records))


def unpack_frame_header(data: bytes, salt: bytes) -> FrameHeader | None:
    """None if it is none of this segment's."""
    if len(data) < FRAME_HEADER:
        return None
    (check,) = _CRC.unpack_from(data, _FRAME.size)
    if check != zlib.crc32(data[: _FRAME.size], zlib.crc32(salt)):
        return None
    magic, payloads, records, seq, crc = _FRAME.unpack_from(data)
    return FrameHeader(payloads, records, seq, crc) if magic == FRAME_MAGIC else None


def check_of(payload: bytes) -> bytes:
    """What stands before a payload."""
    return _CRC.pack(zlib.crc32(payload))


def unpack_payload(entry: bytes) -> bytes | None:
    """A payload that was read with its checksum; None if they do not match."""
    payload = entry[CHECK:]
    return payload if entry[:CHECK] == check_of(payload) else None


def relative(offset: int, length: int) -> int:
    """A payload within its frame."""
    return (offset << _SHIFT) | length


def base(segment: int, offset: int) -> int:
    """What is added to a relative place of the frame whose payloads begin there."""
    return segment << 2 * _SHIFT | offset << _SHIFT


def length_of(place: int) -> int:
    """How long the payload is, in bytes, without its checksum."""
    return place & _MASK


def where(place: int) -> tuple[int, int, int]:
    """Segment, offset in its file, and length of a payload with its checksum."""
    return place >> 2 * _SHIFT, place >> _SHIFT & _MASK, (place & _MASK) + CHECK


def place(segment: int, offset: int, length: int) -> int:
    """The opposite of `where`."""
    return base(segment, offset) | length - CHECK


def packed_place(payload: int | bytes | None) -> bytes | tuple[int, int, int] | None:
    """A payload's place as a checkpoint has it; a payload that is no place stays as it is."""
    return where(payload) if isinstance(payload, int) else payload


def unpacked_place(packed: bytes | tuple[int, int, int] | None) -> int | bytes | None:
    """The opposite of `packed_place`."""
    return place(*packed) if isinstance(packed, tuple) else packed
