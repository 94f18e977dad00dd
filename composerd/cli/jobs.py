"""`composerd wait`, `status`, `cancel`, `delete`, `why`, `jobs` and `artifacts`: commands for submitted jobs."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import msgspec
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from composerd.cli.console import (
    Server,
    failure_of,
    json_option,
    print_job,
    print_jobs,
    print_json,
    print_table,
    progress_console,
    run,
    say,
    server_option,
    shown,
)
from composerd.cli.errors import FAILED, Failure, parsed
from composerd_client import Artifact, ComposerClient, Job
from composerd_protocol.escaping import escaped
from composerd_protocol.units import format_size, parse_duration

PATIENCE = 60.0
"""Seconds that following a job continues while the server is unavailable."""


@click.command(epilog="Example: composerd wait 0b6a… --timeout 10m")
@click.argument("job_id", metavar="ID")
@click.option("--timeout", metavar="DURATION", help="Give up after this time, such as 10m.")
@server_option
@json_option
def wait(job_id: str, timeout: str | None, server: Server, as_json: bool) -> None:
    """Wait until a job has ended.

    Exits with 1 if it failed or was canceled.
    """
    seconds = None if timeout is None else parsed("--timeout", parse_duration, timeout)
    run(_wait(server, job_id, seconds, as_json))


async def _wait(server: Server, job_id: str, timeout: float | None, as_json: bool) -> None:
    async with server.composer() as composer:
        await composer.get(job_id)  # fail at once if the server is unreachable from the start
    async with server.composer(PATIENCE) as composer:
        try:
            job = await follow(composer, job_id, timeout)
        except TimeoutError:
            raise Failure(f"job {job_id} has not ended yet", FAILED) from None
        await show_end(composer, job, as_json)


async def follow(composer: ComposerClient, job_id: str, timeout: float | None = None) -> Job:
    """Wait until a job has ended, and return it; on a terminal, show its state and progress meanwhile.

    Raises `TimeoutError` after `timeout` seconds.
    """
    if not progress_console.is_terminal:
        return await composer.wait(job_id, timeout)
    with progress_console.status("") as line:
        async with asyncio.timeout(timeout):
            async for job in composer.follow(job_id, every=0.5):
                partial = "" if job.partial is None else f" · {msgspec.json.encode(job.partial).decode()[:200]}"
                line.update(Text.assemble(shown(f"{job.type} {job.id}: "), shown(job.state), shown(partial)))
                if job.ended:
                    return job
    raise AssertionError("follow() ends only after the job")


async def show_end(composer: ComposerClient, job: Job, as_json: bool) -> None:
    """Print an ended job. Raises `Failure` unless it finished."""
    if as_json:
        print_json(await composer.get_json(job.id))
    else:
        print_job(job)
    if job.state != "finished":
        raise Failure(failure_of(job), FAILED)


@click.command(epilog="Example: composerd status 0b6a…")
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def status(job_id: str, server: Server, as_json: bool) -> None:
    """Show a job."""

    async def show() -> None:
        async with server.composer() as composer:
            if as_json:
                print_json(await composer.get_json(job_id))
            else:
                print_job(await composer.get(job_id))

    run(show())


@click.command(epilog="Example: composerd cancel 0b6a…")
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def cancel(job_id: str, server: Server, as_json: bool) -> None:
    """Cancel a job and the jobs that depend on it."""

    async def send_cancel() -> None:
        async with server.composer() as composer:
            job = await composer.cancel(job_id)
            if as_json:
                print_json(await composer.get_json(job.id))
            else:
                say(f"{job.id} is canceled")

    run(send_cancel())


@click.command(epilog="Example: composerd delete 0b6a…")
@click.argument("job_id", metavar="ID")
@server_option
def delete(job_id: str, server: Server) -> None:
    """Delete an ended job and its artifacts now.

    Without this command they are deleted when the job's retention is over.
    """

    async def send_delete() -> None:
        async with server.composer() as composer:
            await composer.delete(job_id)
        say(f"{job_id} is deleted")

    run(send_delete())


@click.command(epilog="Example: composerd why 0b6a…")
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def why(job_id: str, server: Server, as_json: bool) -> None:
    """Explain why a job is not running."""

    async def show() -> None:
        async with server.composer() as composer:
            if as_json:
                print_json(await composer.why_json(job_id))
                return
            answer = await composer.why(job_id)
        say(answer.reason)
        for blocker in answer.blocked_by:
            say(f"  waits for {blocker}")
        if answer.delayed_until is not None:
            say(f"  not before {answer.delayed_until}")

    run(show())


@click.command(epilog="Example: composerd jobs --state running --limit 20")
@click.option(
    "--state",
    type=click.Choice(["waiting", "ready", "running", "finished", "failed", "canceled"]),
    help="List only jobs in this state.",
)
@click.option("--type", "job_type", metavar="TYPE", help="List only jobs of this type.")
@click.option("--channel", metavar="CHANNEL", help="List only jobs of this channel.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", default=100, show_default=True, help="List at most this many."
)
@server_option
@json_option
def jobs(
    state: str | None, job_type: str | None, channel: str | None, limit: int, server: Server, as_json: bool
) -> None:
    """List jobs, newest first."""

    async def find() -> list[Job]:
        async with server.composer() as composer:
            return [job async for job in composer.list(limit, state=state, type=job_type, channel=channel)]

    found = run(find())
    if as_json:
        print_jobs(found, "jobs")
        return
    rows = [
        (job.id, job.type, job.arch or "any", job.state, str(job.priority), job.queued_at[:19].replace("T", " "))
        for job in found
    ]
    print_table(("id", "type", "arch", "state", "priority", "queued at"), rows)


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="With --download: replace files that exist, instead of stopping."
)


@click.command(epilog="Example: composerd artifacts 0b6a… --download .")
@click.argument("job_id", metavar="ID")
@click.option(
    "--download",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Download the artifacts into this directory, and check their digests.",
)
@overwrite_option
@server_option
@json_option
def artifacts(job_id: str, directory: Path | None, overwrite: bool, server: Server, as_json: bool) -> None:
    """List or download the artifacts of a job."""

    async def list_or_download() -> None:
        async with server.composer() as composer:
            found = await composer.artifacts(job_id)
            if directory is not None:
                await download(composer, found, directory, overwrite=overwrite)
            if as_json:
                print_json(await composer.artifacts_json(job_id))
        if not as_json:
            print_table(("name", "size", "sha256"), [(one.name, format_size(one.size), one.sha256) for one in found])

    run(list_or_download())


async def download(
    composer: ComposerClient, found: Sequence[Artifact], directory: Path, *, overwrite: bool = False
) -> None:
    """Download artifacts into a directory, which is created if necessary; on a terminal, show a progress bar.

    Raises `Failure` if a file exists, unless `overwrite` is set.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _bar() as bar:
        for artifact in found:
            task = bar.add_task(escaped(artifact.name), total=artifact.size)
            try:
                await composer.download(artifact, directory, partial(_show, bar, task), overwrite=overwrite)
            except FileExistsError as exc:
                raise Failure(f"{exc.filename} exists: remove it, or replace it with --overwrite", FAILED) from exc


def _show(bar: Progress, task: TaskID, completed: int) -> None:
    bar.update(task, completed=completed)


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=progress_console, transient=True, disable=not progress_console.is_terminal) as bar:
        yield bar
