"""Values about the artifacts of an attempt: what its worker lists, and why a file or a list is refused. No I/O."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

DIGEST = r"^[0-9a-fA-F]{64}$"


class ListedArtifact(msgspec.Struct, frozen=True):
    """A file that has to be attached to an attempt that finishes."""

    name: str
    size: Annotated[int, Meta(ge=0, description="The size in bytes, if it is to be compared.")] | None = None
    sha256: (
        Annotated[
            str,
            Meta(
                min_length=64,
                max_length=64,
                pattern=DIGEST,
                description="The SHA-256 in hexadecimal, if it is to be compared.",
            ),
        ]
        | None
    ) = None


class Exceeded(enum.StrEnum):
    """The reasons for which a file is not attached to a running attempt."""

    FILES = "files"
    BYTES = "bytes"
    SHORTER = "shorter"
    """The file may lack a part, and would replace a longer one."""


class DifferenceKind(enum.StrEnum):
    """The kinds of differences between the files that an attempt has and those that its worker lists."""

    MISSING = "missing"
    """A listed file is not attached."""
    UNEXPECTED = "unexpected"
    """An attached file is not listed."""
    SIZE = "size"
    SHA256 = "sha256"


class Difference(msgspec.Struct, frozen=True):
    """The first difference between the files that an attempt has and those that its worker lists."""

    kind: DifferenceKind
    name: str
    """The name of the file."""
    attached: int | str | None = None
    """The size or the digest of the attached file, if that is the difference."""
