"""The statements in `queries/`, by name and for one schema; and how their parameters are encoded."""

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any
from uuid import UUID

import msgspec

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"\s*--.*$", re.MULTILINE)
_SCHEMA = re.compile(r"\bcomposerd\.")

_FRAGMENTS = ("passing", "columns", "listed_columns", "dependents", "last_place", "weight", "ends_as")
"""Named texts that other statements contain, as `{columns}`."""


class Statements(dict[str, str]):
    """The text of every statement, by its name."""

    def __init__(self, schema: str) -> None:
        super().__init__()
        for file in files(__package__).joinpath("queries").iterdir():
            pieces = _NAME.split(file.read_text(encoding="utf-8"))
            for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
                self[name] = in_schema(_COMMENT.sub("", text).strip(), schema)
        for name, text in self.items():
            for fragment in _FRAGMENTS:
                text = text.replace(f"{{{fragment}}}", self[fragment])
            self[name] = text

    def joined(self, *names: str) -> str:
        """Return several statements as one text, for one round trip that returns the rows of the last one."""
        return ";\n".join([self[name] for name in names])


def in_schema(text: str, schema: str) -> str:
    """Return SQL in which the schema `composerd` is replaced by another one."""
    return _SCHEMA.sub(f'"{schema}".', text)


def array(values: Iterable[UUID | int | str]) -> str:
    """Return values as the text of an SQL array, which is like a JSON array but for the brackets."""
    return f"{{{msgspec.json.encode(list(values))[1:-1].decode()}}}"


def encode(rows: Any) -> str:
    """Return rows as the JSON that statements take, with bytes in base64."""
    return msgspec.json.encode(rows).decode()
