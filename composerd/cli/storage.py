"""`composerd migrate` and `composerd storage`: commands that work on a storage without a server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from composerd.cli import completing
from composerd.cli.options import json_option

F = TypeVar("F", bound=Callable[..., Any])


def _checked(ctx: click.Context, param: click.Parameter, url: str) -> str:
    """Return a storage URL. Warn of a password in it that is in the command line."""
    if not ctx.resilient_parsing and ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
        from composerd.driver.url import EXPOSED, has_password

        if has_password(url):
            click.echo(f"composerd: {EXPOSED}", err=True)
    return url


def _storage_option(*names: str, help: str, envvar: str | None = None) -> Callable[[F], F]:
    return click.option(
        *names,
        required=True,
        metavar="URL",
        help=help,
        envvar=envvar,
        callback=_checked,
        shell_complete=completing.storages,
    )


_url_option = _storage_option(
    "--storage",
    "url",
    help="Storage URL, such as fs:/var/lib/composerd. Environment: COMPOSERD_STORAGE.",
    envvar="COMPOSERD_STORAGE",
)


class _DirectoryOrURL(click.Path):
    """The type of an option that takes a directory or the URL of an artifact store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from composerd.plugins import scheme_of

        return value if scheme_of(value) else super().convert(value, param, ctx)


def _artifacts_option(name: str, help: str, *, exists: bool = True) -> Callable[[F], F]:
    return click.option(name, type=_DirectoryOrURL(file_okay=False, exists=exists), metavar="DIR|URL", help=help)


@click.command(epilog="Example: composerd migrate --storage fs:/var/lib/composerd")
@_url_option
@click.option("--create", is_flag=True, help="Create the storage if it does not exist.")
def migrate(**options: Any) -> None:
    """Upgrade the format of a storage.

    This is optional: a server also does it when it starts.
    """
    from composerd.cli.running import storage as running

    running.migrate(**options)


@click.group()
def storage() -> None:
    """Inspect, check, back up, salvage or move a storage."""


@storage.command(epilog="Example: composerd storage info --storage fs:/var/lib/composerd")
@_url_option
@json_option
def info(**options: Any) -> None:
    """Count the jobs in a storage, and show details of it.

    Changes nothing. A server may use the storage meanwhile.
    """
    from composerd.cli.running import storage as running

    running.info(**options)


@storage.command(epilog="Example: composerd storage check --storage fs:/var/lib/composerd")
@_url_option
@_artifacts_option(
    "--artifacts", "Directory of the artifacts, or URL of their store. [default: the storage's own, if it has one]"
)
@json_option
def check(**options: Any) -> None:
    """Check a storage and its artifacts for damage.

    Reads everything in the storage and changes nothing. A server may use the storage meanwhile. Exits with 1 if
    anything is damaged.
    """
    from composerd.cli.running import storage as running

    running.check(**options)


@storage.command(epilog="Example: composerd storage backup /backup/today --storage fs:/var/lib/composerd")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@_url_option
@_artifacts_option(
    "--artifacts", "Directory of the artifacts, or URL of their store. [default: the storage's own, if it has one]"
)
@json_option
def backup(**options: Any) -> None:
    """Make a copy of an fs storage and its artifacts.

    A server may use the storage meanwhile. DIR must be empty or not exist; until the backup is complete it is called
    DIR.unfinished. Files that never change are hard links where that is possible. Exits with 1 if artifacts are
    missing or have a wrong size.
    """
    from composerd.cli.running import storage as running

    running.backup(**options)


@storage.command(epilog="Example: composerd storage salvage --storage fs:/srv/damaged --to fs:/srv/new")
@_url_option
@_storage_option("--to", "target_url", help="URL of the storage to make, which has no jobs.")
@_artifacts_option("--artifacts", "Where the artifacts are. [default: the storage's own directory, if it has one]")
@_artifacts_option(
    "--to-artifacts", "Where to copy the artifacts. [default: the storage's own directory, if it has one]", exists=False
)
@json_option
def salvage(**options: Any) -> None:
    """Take what is whole out of a damaged fs storage.

    Stop the server first. The damaged storage is not changed. Names every job that is incomplete or lost. A job that
    may have run in a part that is lost is stored as canceled. Exits with 1 if anything is damaged.
    """
    from composerd.cli.running import storage as running

    running.salvage(**options)


@storage.command(epilog="Example: composerd storage confirm-clock --storage fs:/var/lib/composerd")
@_url_option
def confirm_clock(**options: Any) -> None:
    """Say that the clock is right after it has jumped forward.

    A server removes no jobs that ended before the clock jumped forward by more than an hour, or before the storage was
    closed for longer, until a day later. After this command it removes them as soon as their retention is over. Compare
    the time with another machine first.
    """
    from composerd.cli.running import storage as running

    running.confirm_clock(**options)


@storage.command(epilog="Example: composerd storage move --from fs:/srv/old --to fs:/srv/new")
@_storage_option("--from", "source_url", help="URL of the storage to copy from.")
@_storage_option("--to", "target_url", help="URL of the storage to copy to.")
@_artifacts_option("--from-artifacts", "Where the artifacts are. [default: the storage's own directory, if it has one]")
@_artifacts_option(
    "--to-artifacts", "Where to copy the artifacts. [default: the storage's own directory, if it has one]", exists=False
)
@json_option
def move(**options: Any) -> None:
    """Copy all jobs and artifacts into another storage.

    Stop the servers of both storages first. Ended jobs are copied too. Jobs copied already are skipped, so an
    interrupted move can be repeated. The storage that you copy from is not changed: remove it once you no longer need
    it.
    """
    from composerd.cli.running import storage as running

    running.move(**options)
