"""The format of the server's log: text or JSON lines, each with the id of the request that it belongs to."""

import logging
import time
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from composerd.http.request_context import client, known_job_id, request_id
from composerd_protocol.escaping import LineFormatter, escaped, without_tokens
from composerd_protocol.journald import formatter_for_stderr

MOST_LINES = 100
"""The most lines of one kind that the requests of one client can cause in `WINDOW`."""

WINDOW = 60.0
"""Time in seconds in which lines are counted."""


def configure(level: str, form: Literal["text", "json"], process: int | None = None) -> None:
    """Send the log to stderr.

    `level` is the least severe level to log, in lower case. `process` is the number of one of several processes.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter_for_stderr(JSONFormatter(process) if form == "json" else TextFormatter(process)))
    handler.addFilter(FloodFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class FloodFilter(logging.Filter):
    """Leaves out warnings about requests, so that no client can fill the disk with them."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[tuple[str, str], int] = {}
        """The number of lines in this window, by message and client."""
        self._window_end = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a line to leave out. The last one before says that lines are left out."""
        if record.levelno != logging.WARNING or not record.name.startswith("composerd.http."):
            return True
        if (now := time.monotonic()) >= self._window_end:
            self._window_end = now + WINDOW
            self._lines.clear()
        kind = (record.msg, client.get())
        lines = self._lines[kind] = self._lines.get(kind, 0) + 1
        if lines == MOST_LINES:
            record.msg += "; further lines about this client are left out for up to a minute"
        return lines <= MOST_LINES


class TextFormatter(LineFormatter):
    """Formats lines as `TIME LEVEL [REQUEST ID] MESSAGE`; one of several processes adds `process N` after the level."""

    def __init__(self, process: int | None = None) -> None:
        number = "" if process is None else f"process {process} "
        super().__init__(f"%(asctime)s %(levelname)-7s {number}[%(request_id)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the indented traceback if there is one."""
        record.request_id = request_id.get()
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002
        """Return the time of a line (RFC 3339) in UTC with milliseconds. The `logging` module calls it by this name."""
        return _time(record)


class JSONFormatter(logging.Formatter):
    """Formats every line as a JSON object."""

    def __init__(self, process: int | None = None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON object."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "operation_id": request_id.get(),
            "message": record.getMessage(),
        }
        if self._process is not None:
            line["process"] = self._process
        if (job := known_job_id.get()) is not None:
            line["job_id"] = job
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return escaped(without_tokens(msgspec.json.encode(line).decode()))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
