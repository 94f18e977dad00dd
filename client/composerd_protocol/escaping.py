"""Text from elsewhere made safe to show: control characters escaped, and tokens left out."""

import logging
import re

# C0, DEL, C1, the line and paragraph separators, and the characters that change the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)

_LOCATION = re.compile(rf"(?<!/composer/v1)(/+jobs/+){_UUID.pattern}", re.IGNORECASE)


_BEARER = re.compile(r"composerd_[0-9A-Za-z]{30,}|eyJ[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
"""A token of composerd, also one with a typing error, and a JWT."""


def escaped(text: str) -> str:
    r"""Return the text with every control character as an escape of JSON, such as `\u001b`.

    A terminal obeys control characters, and a line feed in a value looks like the beginning of another line. In a text
    that is JSON already, the value stays the same.
    """
    return _CONTROL.sub(_escape, text)


def without_tokens(text: str) -> str:
    """Return the text without bearer tokens, and without the tokens of attempts, with which a job can be finished.

    Those are the UUIDs after `/jobs/` of any API but the composer API, where they are ids of jobs.
    """
    return without_bearer_tokens(_LOCATION.sub(r"\1TOKEN", text))


def without_bearer_tokens(text: str) -> str:
    """Return the text with TOKEN for each bearer token: somebody may have written one where a name belongs."""
    return _BEARER.sub("TOKEN", text)


def without_uuids(path: str) -> str:
    """Return the path of a request with TOKEN for each UUID, wherever it is."""
    return _UUID.sub("TOKEN", path)


class LineFormatter(logging.Formatter):
    """Formats a record as one line without control characters and tokens, and the lines of a traceback indented.

    So nothing that a client sends can look like a line of the log.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the `logging` module calls it so
        """Return the line without the traceback."""
        return escaped(without_tokens(super().formatMessage(record)))

    def formatException(self, ei: "logging._SysExcInfoType") -> str:  # noqa: N802
        """Return the traceback, whose lines are indented."""
        lines = without_tokens(super().formatException(ei)).split("\n")
        return "\n".join(f"  {escaped(line)}" for line in lines)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """Return the stack, whose lines are indented."""
        return "\n".join(f"  {escaped(line)}" for line in stack_info.split("\n"))


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    return _SHORT.get(char) or f"\\u{ord(char):04x}"
