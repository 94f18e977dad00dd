"""Candidates for an unfinished word."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from composerd.cli.completing.command_line import Place
from composerd.cli.completing.server import ask


class Candidate(NamedTuple):
    """One way to go on."""

    kind: str
    """`plain`, `open` if more of the word follows, or `file` or `dir`, for which the shell completes a path itself."""
    text: str
    """The complete word; the beginning of a path without what is before it."""
    help: str = ""
    before: str = ""
    """The part of the word before a path."""


def candidates(place: Place, environ: Mapping[str, str]) -> Sequence[Candidate]:
    """Return the candidates for a word; none if the server does not answer at once."""
    if place.value is None:
        return [one for one in _names(place) if one.text.startswith(place.word)]
    kind = place.value["kind"]
    if kind in ("file", "dir"):
        return [Candidate(kind, place.word, before=place.before)]
    if kind == "args":
        return _args(place)
    if kind == "choices":
        found: Sequence[Candidate] = [Candidate("plain", one) for one in place.value["choices"]]
    elif kind == "storage":
        found = _storages(place)
        if not found:
            scheme, colon, path = place.word.partition(":")
            return [Candidate("dir", path, before=f"{place.before}{scheme}{colon}")]
    else:
        found = [Candidate("plain", text, help) for text, help in ask(kind, place, environ)]
    return [one._replace(text=place.before + one.text) for one in found if one.text.startswith(place.word)]


def _names(place: Place) -> Iterator[Candidate]:
    """Yield the names of the subcommands, or of the options that may still be given."""
    if not place.word.startswith("-"):
        for name, command in place.command["commands"].items():
            yield Candidate("plain", name, command["help"])
        return
    for name, option in place.command["options"].items():
        if option["several"] or name not in place.given:
            yield Candidate("plain", name, option["help"])


def _args(place: Place) -> Sequence[Candidate]:
    """Return the path of a file for `@`, and `@` itself for an empty word."""
    if place.word.startswith("@"):
        return [Candidate("file", place.word[1:], before=f"{place.before}@")]
    return [] if place.word else [Candidate("open", f"{place.before}@")]


def _storages(place: Place) -> Sequence[Candidate]:
    """Return the schemes of the installed storage drivers; none of them is imported."""
    if ":" in place.word:
        return []
    from importlib.metadata import entry_points  # noqa: PLC0415  # takes as long as everything else together

    return [Candidate("open", f"{point.name}:") for point in entry_points(group="composerd.drivers")]
