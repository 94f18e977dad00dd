"""The SQL in `queries/`, by name, for one schema; and parameters as it takes them."""

import re
from collections.abc import Iterable
from importlib.resources import files
from uuid import UUID

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"\s*--.*$", re.MULTILINE)
_SCHEMA = re.compile(r"\bcomposerd\.")


class Statements:
    """Every statement, by its name."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._texts: dict[str, str] = {}
        for file in sorted((one for one in files(__package__).joinpath("queries").iterdir()), key=lambda one: one.name):
            pieces = _NAME.split(file.read_text(encoding="utf-8"))
            for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
                self._texts[name] = in_schema(_COMMENT.sub("", text).strip(), schema)
        for name, text in self._texts.items():
            for part in ("columns", "dependents"):
                text = text.replace(f"{{{part}}}", self._texts[part])
            self._texts[name] = text

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def all(self, *names: str) -> str:
        """Several statements in one text: one round trip, of which the last one's rows come back."""
        return ";\n".join(self._texts.get(name, name) for name in names)


def in_schema(text: str, schema: str) -> str:
    """A text in which `composerd` stands for the schema."""
    return _SCHEMA.sub(f'"{schema}".', text)


def array(values: Iterable[UUID | int]) -> str:
    """Values as the text of an array."""
    return f"{{{','.join(map(str, values))}}}"
