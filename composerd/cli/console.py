"""What commands have in common: which server, how things are shown, how the client's errors end a command."""

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import click
import msgspec
from rich.console import Console
from rich.table import Table

from composerd.cli.errors import FAILED, UNREACHABLE, WRONG, Failure
from composerd.client import (
    DEFAULT_SERVER,
    ClientError,
    ComposerClient,
    Job,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

console = Console(highlight=False, soft_wrap=True)
progress_console = Console(stderr=True, highlight=False)

_COLOURS = {"finished": "green", "failed": "red", "canceled": "yellow", "running": "cyan"}


class Server(NamedTuple):
    """Which server a command is for, and how to come to it."""

    url: str
    files: Mapping[str, str]
    """What the clients take for TLS."""

    def composer(self, patience: float = 0.0) -> ComposerClient:
        """A client of its composer API."""
        return ComposerClient(self.url, patience, **self.files)


def server_option(command: F) -> F:
    """Give a command the options that say which server; it is called with a `server`."""

    @functools.wraps(command)
    def with_server(*args: Any, server: str, **options: Any) -> Any:
        names = ("ca_file", "cert_file", "key_file")
        given = {name: options.pop(name) for name in names}
        files = {name: path for name, path in given.items() if path is not None}
        return command(*args, server=Server(server, files), **options)

    for option in reversed(_SERVER_OPTIONS):
        option(with_server)
    return cast("F", with_server)


def _file_option(name: str, help: str) -> Callable[[F], F]:
    variable = f"COMPOSERD_{name.upper()}"
    return click.option(
        "--" + name.replace("_", "-"), name, envvar=variable, metavar="FILE", help=f"{help}; also from {variable}."
    )


_SERVER_OPTIONS = (
    click.option(
        "--server",
        envvar="COMPOSERD_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        metavar="URL",
        help="The server: http://HOST:PORT, https://HOST:PORT or unix:/path; also from COMPOSERD_SERVER.",
    ),
    _file_option("ca_file", "For https: who signed the server's certificate, PEM"),
    _file_option("cert_file", "For https: your own certificate, PEM"),
    _file_option("key_file", "For https: its key, PEM"),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the API's JSON.")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; what the client raises ends the command in a sentence."""
    try:
        return asyncio.run(work)
    except ServerNotTrusted as exc:
        raise Failure(f"{exc} (--ca-file, --cert-file and --key-file)", UNREACHABLE) from exc
    except ServerUnreachable as exc:
        raise Failure(f"{exc}; is `composerd serve` running there? (--server, COMPOSERD_SERVER)", UNREACHABLE) from exc
    except RequestFailed as exc:
        raise Failure(str(exc), FAILED) from exc
    except ClientError as exc:
        raise Failure(str(exc), FAILED) from exc
    except UnicodeEncodeError:
        raise  # an argument that is no text: the command line says which
    except ValueError as exc:
        raise Failure(str(exc), WRONG) from exc
    except OSError as exc:
        if exc.filename is None:
            raise  # of the output
        raise Failure(f"{exc.filename}: {exc.strerror}", FAILED) from exc


def print_json(value: Any) -> None:
    """Print JSON; bytes as they are."""
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, tab-separated lines in a pipe."""
    if not console.is_terminal:
        for row in rows:
            sys.stdout.write("\t".join(row) + "\n")
        return
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*[state_text(cell) for cell in row])
    console.print(table)


def state_text(state: str) -> str:
    """A state in its colour; anything else as it is."""
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state.replace("[", "\\[")


def print_job(job: Job) -> None:
    """All of a job, a field a line."""
    for name in Job.__struct_fields__:
        value = getattr(job, name)
        if value in (None, [], False, "") or name in ("kind", "href"):
            continue
        if name in ("result", "partial"):
            text = msgspec.json.encode(value).decode()
            shown = text if len(text) <= 2000 else text[:2000] + "…"
        else:
            shown = ", ".join(value) if isinstance(value, list) else str(value)
        if console.is_terminal:
            console.print(f"[bold]{name:16}[/bold] {state_text(shown)}")
        else:
            sys.stdout.write(f"{name}\t{shown}\n")


def failure_of(job: Job) -> str:
    """Why a job did not finish, in a sentence."""
    if job.state == "canceled":
        return f"job {job.id} was canceled"
    error = job.result.get("job_error") if isinstance(job.result, dict) else None
    reason = error.get("reason") if isinstance(error, dict) else None
    return f"job {job.id} failed: {' '.join(str(reason).split()) if reason else 'see composerd status'}"
