"""Patterns that the claims of a token have to match, from a file as osbuild-composer reads it."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import yaml

LONGEST_VALUE = 1024
"""The most characters of a claim that is compared. Python's patterns may take long on a text that somebody has chosen,
and Go's do not."""


class Acl:
    """Patterns by claim. A token passes if one of them matches, or if there are none."""

    def __init__(self, patterns: Mapping[str, re.Pattern[str]]) -> None:
        self._patterns = patterns

    def permits(self, claims: Mapping[str, Any]) -> bool:
        """Return True if the claims match one of the patterns. Only claims that are texts can match."""
        if not self._patterns:
            return True
        return any(
            isinstance(value := claims.get(claim), str)
            and len(value) <= LONGEST_VALUE
            and pattern.search(value) is not None
            for claim, pattern in self._patterns.items()
        )


def parse_acl(content: bytes) -> Acl:
    """Return the patterns of a file. Raises `ValueError`.

    The file is a list of objects with a `claim`, which is the name of a claim at the top, and a `pattern`, which is
    searched for in its value. As in osbuild-composer, the last of several patterns for one claim counts.

    An empty file is refused. In osbuild-composer it permits everything, but here it may be one that is being written.
    """
    try:
        found = yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as exc:
        # PyYAML lets some exceptions of its own code through, for values that are not of the type that they name.
        mark = getattr(exc, "problem_mark", None)
        raise ValueError("it is not YAML" + ("" if mark is None else f": see line {mark.line + 1}")) from exc
    if not isinstance(found, list):
        raise ValueError(  # noqa: TRY004  # the content of a file is wrong, not an argument
            "it is not a list of items with `claim` and `pattern`; write [] to let every token pass"
        )
    patterns: dict[str, re.Pattern[str]] = {}
    for number, item in enumerate(found, 1):
        match item:
            case {"claim": str(claim), "pattern": str(pattern)}:
                patterns[claim] = _compiled(number, pattern)
            case _:
                raise ValueError(f"item {number} needs a `claim` and a `pattern`, which are texts: put them in quotes")
    return Acl(patterns)


def _compiled(number: int, pattern: str) -> re.Pattern[str]:
    r"""Return a pattern that matches what it matches in Go. Raises `ValueError` if Python has no such pattern.

    Go's `$` matches only at the end of the text. Python's `$` also matches before a line feed there, and `\Z` does not.
    Classes such as `[[:alpha:]]` have another meaning in Python, which warns of them.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            return re.compile(_at_the_end(pattern), re.ASCII)
    except (re.error, FutureWarning, RecursionError, OverflowError) as exc:
        raise ValueError(f"the pattern of item {number} is not a regular expression that is supported: {exc}") from exc


def _at_the_end(pattern: str) -> str:
    r"""Return a pattern with `\Z` for every `$` that is not escaped or in a class."""
    return re.sub(r"(\\.|\[\^?\]?(?:\\.|[^\]\\])*\])|\$", lambda found: found[1] or r"\Z", pattern, flags=re.DOTALL)
