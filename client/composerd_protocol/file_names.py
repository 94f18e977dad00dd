"""The rule for the name of an artifact, which server, client and worker check in every name that they are given."""

import re

_NOT_IN_A_NAME = re.compile("^[.]|[/\\\\\x00-\x1f\x7f-\x9f]")


def problem_with(name: str) -> str | None:
    """Return what is wrong with the name of an artifact, or None if it is the name of a file in any directory."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "must be UTF-8"
    if not 1 <= size <= 255:
        return "must have 1 to 255 bytes"
    if _NOT_IN_A_NAME.search(name):
        return "must not have a slash, a backslash, a control character or a leading dot"
    return None
