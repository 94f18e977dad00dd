"""Files in TOML that give identities to names: tables `[[identity]]`, each with a role."""

import tomllib
from typing import Annotated, Any, TypeVar

import msgspec

from composerd.identity.roles import Role
from composerd.identity.values import LONGEST_NAME, LONGEST_TENANT
from composerd_protocol.words import is_word


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a table that say what an identity is."""

    role: Role
    tenant: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_TENANT)] | None = None
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_NAME)] | None = None
    """The name of the identity; None for that of the certificate or the user."""

    def __post_init__(self) -> None:
        for field, value in (("tenant", self.tenant), ("name", self.name)):
            if value is not None and not is_word(value):
                raise ValueError(f"{field} {value!r} has white space or characters that are not printable")

    def named_by(self, fields: tuple[str, ...]) -> str:
        """Return which of the fields that say whom an entry is about is there. Raises `ValueError` unless one is."""
        there = [field for field in fields if getattr(self, field) is not None]
        if len(there) != 1:
            raise ValueError(f"an identity needs exactly one of {', '.join(fields)}")
        return there[0]


E = TypeVar("E", bound=Entry)


def parse_entries(content: bytes, kind: type[E]) -> tuple[E, ...]:
    """Return the tables of a file, in their order. Raises `ValueError`, which says what is wrong and where."""
    file = tomllib.loads(content.decode())
    if other := file.keys() - {"identity"}:
        raise ValueError(f"it has {min(other)!r}, and should have tables [[identity]] only")
    tables = file.get("identity", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("each of its tables has to begin with [[identity]], in two brackets")
    return tuple(_entry(number, table, kind) for number, table in enumerate(tables, 1))


def _entry(number: int, table: dict[str, Any], kind: type[E]) -> E:
    try:
        _check(table, kind.__struct_fields__)
        return msgspec.convert(table, kind)
    except ValueError as exc:  # msgspec's too
        raise ValueError(f"in table {number} of the tables [[identity]]: {exc}") from exc


def _check(table: dict[str, Any], fields: tuple[str, ...]) -> None:
    """Raise `ValueError` for the mistakes of which msgspec does not say what is right."""
    if other := table.keys() - set(fields):
        raise ValueError(f"it has {min(other)!r}, but the fields are {', '.join(fields)}")
    if table.get("role") not in list(Role):
        raise ValueError(f"its role has to be one of {', '.join(Role)}")
