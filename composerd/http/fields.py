"""The types of fields, and the fields themselves, that the bodies of `schemas` have in common."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

# The patterns only document; `composerd_protocol.words` and `composerd_protocol.units` check the values.
WORD = r"^\S+$"
DURATION = r"^([0-9]{1,15}(\.[0-9]{1,9})?(ms|s|m|h|d)|0)$"

LONGEST_WORD = 128
"""The most characters of a word."""

Word = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_WORD,
        description="1 to 128 printable characters without white space.",
        extra_json_schema={"pattern": WORD},
    ),
]
OptionalWord = Annotated[
    str, Meta(max_length=LONGEST_WORD, description="Up to 128 printable characters without white space; may be empty.")
]
Duration = Annotated[
    str,
    Meta(
        description="A duration, such as `300ms`, `20s`, `2m`, `1h` or `14d`.",
        examples=["20s"],
        extra_json_schema={"pattern": DURATION},
    ),
]
Json = Annotated[
    Raw,
    Meta(
        description="Any JSON value; it is kept byte for byte.",
        # For oapi-codegen, whose own type loses large integers and refuses numbers beyond a float's range.
        extra_json_schema={
            "x-go-type": "json.RawMessage",
            "x-go-type-import": {"path": "encoding/json"},
            "x-go-type-skip-optional-pointer": True,
        },
    ),
]
Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Object(msgspec.Struct, kw_only=True):
    """The fields that every returned object has."""

    kind: str
    href: str
    id: str


class Identified(msgspec.Struct, kw_only=True):
    """The fields of a returned object whose id is a UUID."""

    kind: str
    href: str
    id: Uuid
