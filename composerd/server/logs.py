"""The server's log: lines for people or JSON for machines, each with the id of the operation that it belongs to."""

import logging
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from composerd.http.context import job_known, operation_id


def configure(level: str, form: Literal["text", "json"], process: int | None = None) -> None:
    """Send the log to stderr. `level` is a name of the logging module's, in lower case; `process` the number of one of several."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter(process) if form == "json" else TextFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL [OPERATION] MESSAGE`, with `process N` before the operation where there are several."""

    def __init__(self, process: int | None = None) -> None:
        which = "" if process is None else f"process {process} "
        super().__init__(f"%(asctime)s %(levelname)-7s {which}[%(operation_id)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback below it if there is one."""
        record.operation_id = operation_id.get()
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002  # logging's name
        """RFC 3339 in UTC with milliseconds."""
        return _time(record)


class JSONFormatter(logging.Formatter):
    """One object a line."""

    def __init__(self, process: int | None = None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "operation_id": operation_id.get(),
            "message": record.getMessage(),
        }
        if self._process is not None:
            line["process"] = self._process
        if (job := job_known.get()) is not None:
            line["job_id"] = job
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
