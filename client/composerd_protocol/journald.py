"""Log lines for the journal of systemd, which reads the priority of each line from its beginning."""

import logging
import os
from collections.abc import Mapping

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def reads_stderr(environ: Mapping[str, str] = os.environ) -> bool:
    """Return True if the journal reads the stderr of this process.

    `JOURNAL_STREAM` has the device and the inode of the stream that a service got; what it was redirected to later has
    others.
    """
    stream = environ.get("JOURNAL_STREAM")
    if not stream:
        return False
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


def with_priority(text: str, level: int) -> str:
    """Return the lines of a text, each with the priority of its level in front of it."""
    priority = next((number for least, number in _PRIORITIES if level >= least), _DEBUG)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class JournalFormatter(logging.Formatter):
    """Puts the priority in front of each line that another formatter returns."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines with their priority."""
        return with_priority(self._formatter.format(record), record.levelno)


def formatter_for_stderr(formatter: logging.Formatter) -> logging.Formatter:
    """Return the formatter of lines on stderr: this one, or one for the journal if the journal reads stderr."""
    return JournalFormatter(formatter) if reads_stderr() else formatter


def error_for_stderr(message: str) -> str:
    """Return the text of an error message on stderr, which has its priority if the journal reads that."""
    return with_priority(message, logging.ERROR) if reads_stderr() else message
