"""`composerd migrate` and `composerd storage`: commands that work on a storage without a server."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from composerd import storage as storages
from composerd.cli.errors import Failure
from composerd.cli.running.console import print_json, print_table, progress_console, say
from composerd.driver import Damage, StorageCheck, StorageInfo
from composerd.driver.registry import open_driver
from composerd.errors import ComposerdError, StorageURLError
from composerd.models import JobState
from composerd_protocol.exit_codes import FAILED, WRONG

T = TypeVar("T")

SHOWN_AFTER = 1.0
"""Seconds after which a progress bar is shown."""


def migrate(url: str, create: bool) -> None:
    """Upgrade the format of a storage."""
    click.echo(f"the storage {_run(storages.migrate(url, create=create))}")


def info(url: str, as_json: bool) -> None:
    """Count the jobs in a storage, and show details of it."""
    found = _run(storages.info(url))
    if as_json:
        print_json({"kind": "StorageInfo", **msgspec.to_builtins(found)})
        return
    _print({"storage": found.description}, found)


def check(url: str, artifacts: str | None, as_json: bool) -> None:
    """Check a storage and its artifacts for damage."""
    with _progress("jobs") as progress:
        found = _run(storages.check(url, artifacts, progress))
    if as_json:
        print_json({"kind": "StorageCheck", "whole": not found.problems, **msgspec.to_builtins(found)})
    else:
        _print_check(found)
    if found.problems:
        problems = _counted(len(found.problems), "problem")
        raise Failure(f"the storage is damaged: {problems}{_elsewhere(url, artifacts)}", FAILED)


def _print_check(found: StorageCheck) -> None:
    for problem in found.problems:
        say(problem)
    _print({"intact": "no" if found.problems else "yes"}, found)


def backup(directory: Path, url: str, artifacts: str | None, as_json: bool) -> None:
    """Make a copy of an fs storage and its artifacts."""
    with _progress("jobs") as progress:
        done = _run(storages.back_up(url, directory.absolute(), artifacts, progress))
    if as_json:
        print_json({"kind": "StorageBackup", "directory": str(directory.absolute()), **msgspec.to_builtins(done)})
    else:
        for problem in done.problems:
            say(problem)
        click.echo(f"Backed up {_counted(done.jobs, 'job')} and {_counted(done.artifacts, 'file')} in {directory}.")
    if done.problems:
        lacks = f"missing or damaged artifacts: {len(done.problems)}; everything else is in the backup"
        raise Failure(f"{lacks}{_elsewhere(url, artifacts)}", FAILED)


def salvage(url: str, target_url: str, artifacts: str | None, to_artifacts: str | None, as_json: bool) -> None:
    """Take what is whole out of a damaged fs storage."""
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
        jobs = f"{_counted(incomplete, 'job')} incomplete, {lost} known to be lost"
        raise Failure(f"the storage is damaged: {jobs}{_elsewhere(url, artifacts)}", FAILED)


def _elsewhere(url: str, artifacts: str | None) -> str:
    """Return a hint if nobody has said where the artifacts are, and they are not where the driver would put them."""
    own = open_driver(url).artifacts_directory
    if artifacts is not None or own is None or Path(own).exists():
        return ""
    return f"; {own} does not exist: if the server has --artifacts, name that directory here too"


def _described(damage: Damage) -> str:
    if damage.job_id is None:
        return damage.problem
    known = ", ".join(one for one in (damage.type, damage.state) if one is not None)
    return f"job {damage.job_id} ({known}): {damage.problem}" if known else f"job {damage.job_id}: {damage.problem}"


def confirm_clock(url: str) -> None:
    """Say that the clock is right after it has jumped forward."""

    async def confirm() -> None:
        driver = open_driver(url)
        async with storages.started(driver, create=False):
            await driver.confirm_clock()

    _run(confirm())
    click.echo("the clock is confirmed: jobs whose retention is over are removed again")


def move(source_url: str, target_url: str, from_artifacts: str | None, to_artifacts: str | None, as_json: bool) -> None:
    """Copy all jobs and artifacts into another storage."""

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
