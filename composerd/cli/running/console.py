"""Shared parts of the commands: output, and the translation of the client's errors."""

import asyncio
import logging
import sys
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from composerd.cli.errors import Failure
from composerd.models import MAX_SHOWN_DEPENDENTS
from composerd_client import Job
from composerd_client.composer import BASE
from composerd_client.failures import CHANGE_SERVER, explain
from composerd_protocol.escaping import LineFormatter, escaped
from composerd_protocol.times import rfc3339

T = TypeVar("T")

console = Console(highlight=False, soft_wrap=True)
progress_console = Console(stderr=True, highlight=False)
_tables = Console(highlight=False, soft_wrap=True, width=1000, height=25)
"""For tables: a terminal that is narrower wraps their lines, and no id is cut off."""

_COLOURS = {"finished": "green", "failed": "red", "canceled": "yellow", "running": "cyan"}


class _Warnings(logging.Handler):
    """Prints the client's warnings on stderr: above all that the server is unavailable, and that it tries again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(LineFormatter("composerd: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record on the stderr of this moment, which is another one while a progress bar is shown."""
        click.echo(self.format(record), err=True)


def print_warnings() -> None:
    """Print the client's warnings from now on."""
    logging.getLogger("composerd_client").addHandler(_Warnings())


def run(work: Coroutine[Any, Any, T], unreachable: str = CHANGE_SERVER) -> T:
    """Run a command's work and return its result; errors of the client become a `Failure`.

    `unreachable` says what to do if there is no server.
    """
    try:
        return asyncio.run(work)
    except Exception as exc:
        explained = explain(exc, unreachable)
        if explained is None:
            raise
        raise Failure(*explained) from exc


def say(text: str, *, err: bool = False) -> None:
    """Print one line, with control characters escaped: it may have text that a server or a worker has chosen."""
    click.echo(escaped(text), err=err)


def print_json(value: Any) -> None:
    """Print a value as JSON; bytes are JSON already, and printed unchanged unless a terminal would obey them."""
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    if console.is_terminal:
        lines = data.decode(errors="backslashreplace").split("\n")
        data = "\n".join(escaped(line) for line in lines).encode(errors="backslashreplace")
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def print_jobs(jobs: Sequence[Job], id: str) -> None:
    """Print jobs as the JSON of a list, which has the path that their own begin with."""
    href = jobs[0].href.rpartition("/")[0] if jobs else f"{BASE}/jobs"
    href = href if id == "jobs" else f"{href}/{id}"
    print_json({"kind": "JobList", "href": href, "id": id, "items": [_as_sent(job) for job in jobs], "next": None})


def _as_sent(job: Job) -> dict[str, Any]:
    """Return the JSON of a job, with its times as the server writes them."""
    fields = msgspec.to_builtins(job, builtin_types=(datetime,))
    return {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in fields.items()}


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on a terminal, and tab-separated lines otherwise."""
    if not console.is_terminal:
        for row in rows:
            sys.stdout.write("\t".join(escaped(cell) for cell in row) + "\n")
        return
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*[shown(cell) for cell in row])
    _tables.print(table)


def shown(text: str) -> Text:
    """Return a text as a terminal shows it: a state in its colour, any other text with control characters escaped."""
    return Text(escaped(text), _COLOURS.get(text, ""))


def print_fields(fields: Mapping[str, str]) -> None:
    """Print names and texts, one on each line."""
    for name, text in fields.items():
        if console.is_terminal:
            console.print(Text.assemble((f"{name:16} ", "bold"), shown(text)))
        else:
            sys.stdout.write(f"{name}\t{escaped(text)}\n")


def print_job(job: Job) -> None:
    """Print the fields of a job that have a value, one on each line."""
    fields: dict[str, str] = {}
    for name in Job.__struct_fields__:
        value = getattr(job, name)
        if value in (None, [], False, "") or name in ("kind", "href"):
            continue
        if name in ("result", "partial"):
            text = msgspec.json.encode(value).decode()
            text = text if len(text) <= 2000 else text[:2000] + "…"
        elif isinstance(value, datetime):
            text = rfc3339(value)
        else:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            if name == "dependents" and len(value) >= MAX_SHOWN_DEPENDENTS:
                text += ", …"  # there may be more, which the server does not show with the job
        fields[name] = text
    print_fields(fields)


def failure_of(job: Job) -> str:
    """Return a sentence that says why a job did not finish."""
    if job.state == "canceled":
        return f"job {job.id} was canceled"
    error = job.result.get("job_error") if isinstance(job.result, dict) else None
    reason = error.get("reason") if isinstance(error, dict) else None
    return f"job {job.id} failed: {' '.join(str(reason).split()) if reason else 'see composerd status'}"
