"""`composerd migrate` and `composerd storage`: commands that work on a storage without a server."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from click.core import ParameterSource
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from composerd import storage as storages
from composerd.cli.console import json_option, print_json, print_table, progress_console, say
from composerd.cli.errors import Failure
from composerd.driver import Damage, StorageCheck, StorageInfo
from composerd.driver.registry import open_driver
from composerd.driver.url import EXPOSED, has_password
from composerd.errors import ComposerdError, StorageURLError
from composerd.models import JobState
from composerd.plugins import scheme_of
from composerd_protocol.exit_codes import FAILED, WRONG

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

SHOWN_AFTER = 1.0
"""Seconds after which a progress bar is shown."""


def _checked(ctx: click.Context, param: click.Parameter, url: str) -> str:
    """Return a storage URL. Warn of a password in it that is in the command line."""
    if ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE and has_password(url):
        say(f"composerd: {EXPOSED}", err=True)
    return url


def _storage_option(*names: str, help: str, envvar: str | None = None) -> Callable[[F], F]:
    return click.option(*names, required=True, metavar="URL", help=help, envvar=envvar, callback=_checked)


_url_option = _storage_option(
    "--storage",
    "url",
    help="Storage URL, such as fs:/var/lib/composerd. Environment: COMPOSERD_STORAGE.",
    envvar="COMPOSERD_STORAGE",
)


class _DirectoryOrURL(click.Path):
    """The type of an option that takes a directory or the URL of an artifact store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if scheme_of(value) else super().convert(value, param, ctx)


def _artifacts_option(name: str, help: str, *, exists: bool = True) -> Callable[[F], F]:
    return click.option(name, type=_DirectoryOrURL(file_okay=False, exists=exists), metavar="DIR|URL", help=help)


@click.command(epilog="Example: composerd migrate --storage fs:/var/lib/composerd")
@_url_option
@click.option("--create", is_flag=True, help="Create the storage if it does not exist.")
def migrate(url: str, create: bool) -> None:
    """Upgrade the format of a storage.

    This is optional: a server also does it when it starts.
    """
    click.echo(f"the storage {_run(storages.migrate(url, create=create))}")


@click.group()
def storage() -> None:
    """Inspect, check, back up, salvage or move a storage."""


@storage.command(epilog="Example: composerd storage info --storage fs:/var/lib/composerd")
@_url_option
@json_option
def info(url: str, as_json: bool) -> None:
    """Count the jobs in a storage, and show details of it.

    Changes nothing. A server may use the storage meanwhile.
    """
    found = _run(storages.info(url))
    if as_json:
        print_json({"kind": "StorageInfo", **msgspec.to_builtins(found)})
        return
    _print({"storage": found.description}, found)


@storage.command(epilog="Example: composerd storage check --storage fs:/var/lib/composerd")
@_url_option
@_artifacts_option(
    "--artifacts", "Directory of the artifacts, or URL of their store. [default: the storage's own, if it has one]"
)
@json_option
def check(url: str, artifacts: str | None, as_json: bool) -> None:
    """Check a storage and its artifacts for damage.

    Reads everything in the storage and changes nothing. A server may use the storage meanwhile. Exits with 1 if
    anything is damaged.
    """
    with _progress("jobs") as progress:
        found = _run(storages.check(url, artifacts, progress))
    if as_json:
        print_json({"kind": "StorageCheck", "whole": not found.problems, **msgspec.to_builtins(found)})
    else:
        _print_check(found)
    if found.problems:
        raise Failure(f"the storage is damaged: {_counted(len(found.problems), 'problem')}", FAILED)


def _print_check(found: StorageCheck) -> None:
    for problem in found.problems:
        say(problem)
    _print({"intact": "no" if found.problems else "yes"}, found)


@storage.command(epilog="Example: composerd storage backup /backup/today --storage fs:/var/lib/composerd")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@_url_option
@_artifacts_option(
    "--artifacts", "Directory of the artifacts, or URL of their store. [default: the storage's own, if it has one]"
)
@json_option
def backup(directory: Path, url: str, artifacts: str | None, as_json: bool) -> None:
    """Make a copy of an fs storage and its artifacts.

    A server may use the storage meanwhile. DIR must be empty or not exist; until the backup is complete it is called
    DIR.unfinished. Files that never change are hard links where that is possible. Exits with 1 if artifacts are
    missing or have a wrong size.
    """
    with _progress("jobs") as progress:
        done = _run(storages.back_up(url, directory.absolute(), artifacts, progress))
    if as_json:
        print_json({"kind": "StorageBackup", "directory": str(directory.absolute()), **msgspec.to_builtins(done)})
    else:
        for problem in done.problems:
            say(problem)
        click.echo(f"Backed up {_counted(done.jobs, 'job')} and {_counted(done.artifacts, 'file')} in {directory}.")
    if done.problems:
        raise Failure(f"missing or damaged artifacts: {len(done.problems)}; everything else is in the backup", FAILED)


@storage.command(epilog="Example: composerd storage salvage --storage fs:/srv/damaged --to fs:/srv/new")
@_url_option
@_storage_option("--to", "target_url", help="URL of the storage to make, which has no jobs.")
@_artifacts_option("--artifacts", "Where the artifacts are. [default: the storage's own directory, if it has one]")
@_artifacts_option(
    "--to-artifacts", "Where to copy the artifacts. [default: the storage's own directory, if it has one]", exists=False
)
@json_option
def salvage(url: str, target_url: str, artifacts: str | None, to_artifacts: str | None, as_json: bool) -> None:
    """Take what is whole out of a damaged fs storage.

    Stop the server first. The damaged storage is not changed. Names every job that is incomplete or lost. A job that
    may have run in a part that is lost is stored as canceled. Exits with 1 if anything is damaged.
    """
    done = _run(storages.salvage(url, target_url, artifacts, to_artifacts))
    if as_json:
        print_json({"kind": "StorageSalvage", "whole": not done.damage, **msgspec.to_builtins(done)})
    else:
        for one in done.damage:
            say(_described(one))
        click.echo(f"Salvaged {_counted(done.jobs, 'job')} and {_counted(done.artifacts, 'file')}.")
        for sentence in done.not_checked:
            say(f"not checked: {sentence}")
    if done.damage:
        incomplete = len({one.job_id for one in done.damage if one.job_id is not None and not one.lost})
        lost = sum(one.lost for one in done.damage)
        raise Failure(
            f"the storage is damaged: {_counted(incomplete, 'job')} incomplete, {lost} known to be lost", FAILED
        )


def _described(damage: Damage) -> str:
    if damage.job_id is None:
        return damage.problem
    known = ", ".join(one for one in (damage.type, damage.state) if one is not None)
    return f"job {damage.job_id} ({known}): {damage.problem}" if known else f"job {damage.job_id}: {damage.problem}"


@storage.command(epilog="Example: composerd storage confirm-clock --storage fs:/var/lib/composerd")
@_url_option
def confirm_clock(url: str) -> None:
    """Say that the clock is right after it has jumped forward.

    A server removes no jobs that ended before the clock jumped forward by more than an hour, or before the storage was
    closed for longer, until a day later. After this command it removes them as soon as their retention is over. Compare
    the time with another machine first.
    """

    async def confirm() -> None:
        driver = open_driver(url)
        async with storages.started(driver, create=False):
            await driver.confirm_clock()

    _run(confirm())
    click.echo("the clock is confirmed: jobs whose retention is over are removed again")


@storage.command(epilog="Example: composerd storage move --from fs:/srv/old --to fs:/srv/new")
@_storage_option("--from", "source_url", help="URL of the storage to copy from.")
@_storage_option("--to", "target_url", help="URL of the storage to copy to.")
@_artifacts_option("--from-artifacts", "Where the artifacts are. [default: the storage's own directory, if it has one]")
@_artifacts_option(
    "--to-artifacts", "Where to copy the artifacts. [default: the storage's own directory, if it has one]", exists=False
)
@json_option
def move(source_url: str, target_url: str, from_artifacts: str | None, to_artifacts: str | None, as_json: bool) -> None:
    """Copy all jobs and artifacts into another storage.

    Stop the servers of both storages first. Ended jobs are copied too. Jobs copied already are skipped, so an
    interrupted move can be repeated. The storage that you copy from is not changed: remove it once you no longer need
    it.
    """

    async def copy(progress: storages.Progress) -> storages.Moved:
        source, target = open_driver(source_url), open_driver(target_url)
        async with storages.reading(source, alone=True), storages.started(target, create=True):
            return await storages.move(source, target, from_artifacts, to_artifacts, progress)

    with _progress("jobs") as progress:
        moved = _run(copy(progress))
    if as_json:
        print_json({"kind": "StorageMove", **msgspec.to_builtins(moved)})
    else:
        click.echo(f"Moved {_counted(moved.jobs, 'job')} and copied {_counted(moved.artifacts, 'file')}.")


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except StorageURLError as exc:
        raise Failure(str(exc), WRONG) from exc
    except ComposerdError as exc:
        raise Failure(str(exc), FAILED) from exc


def _print(first: Mapping[str, str], found: StorageInfo | StorageCheck) -> None:
    rows = [*first.items(), *((f"jobs {state}", str(found.jobs.get(state, 0))) for state in JobState)]
    rows.extend((name.replace("_", " "), str(value)) for name, value in found.details.items())
    rows.extend(("not checked", sentence) for sentence in found.not_checked)
    print_table(("", ""), rows)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@contextlib.contextmanager
def _progress(unit: str) -> Iterator[storages.Progress]:
    """Yield a function that reports progress; on a terminal, it shows a bar after `SHOWN_AFTER` seconds."""
    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=progress_console, transient=True)
    task = bar.add_task(unit, total=None)
    began = time.monotonic()

    def progress(done: int, total: int) -> None:
        if progress_console.is_terminal and not bar.live.is_started and time.monotonic() - began > SHOWN_AFTER:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()
