"""`composerd wait`, `status`, `cancel`, `delete`, `why`, `jobs` and `artifacts`: commands for submitted jobs."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from composerd.cli.errors import Failure
from composerd.cli.running.console import (
    failure_of,
    print_job,
    print_jobs,
    print_json,
    print_table,
    progress_console,
    run,
    say,
    shown,
)
from composerd.cli.server import Server
from composerd_client import Artifact, ComposerClient, Job, ServerUnreachable
from composerd_protocol.escaping import escaped
from composerd_protocol.exit_codes import FAILED, TIMED_OUT
from composerd_protocol.times import rfc3339
from composerd_protocol.units import format_size

PATIENCE = 60.0
"""Seconds that following a job continues while the server is unavailable."""

_MOST_DEPENDENTS = 100
"""Number of dependents of a canceled job that are looked at."""

_MOST_NAMED = 20
"""Number of jobs that are named as canceled with another."""

_LOOK_WITHIN = 5.0
"""Seconds that the server may take to show a job after the timeout of a wait."""


def wait(job_id: str, timeout: float | None, server: Server, as_json: bool) -> None:
    """Wait until a job has ended."""
    run(_wait(server, job_id, timeout, as_json))


async def _wait(server: Server, job_id: str, timeout: float | None, as_json: bool) -> None:
    try:
        async with asyncio.timeout(timeout):
            async with server.composer() as composer:
                await composer.get(job_id)  # fail at once if the server is unreachable from the start
            async with server.composer(PATIENCE) as composer:
                job = await follow(composer, job_id)
    except TimeoutError:
        job = await _look(server, job_id)
        if not job.ended:
            raise Failure(f"job {job_id} has not ended yet", TIMED_OUT) from None
    async with server.composer(PATIENCE) as composer:
        await show_ends(composer, [job], as_json)


async def _look(server: Server, job_id: str) -> Job:
    """Return a job, so that a wait whose timeout is over says so only if the server is available."""
    try:
        async with asyncio.timeout(_LOOK_WITHIN), server.composer() as composer:
            return await composer.get(job_id)
    except TimeoutError:
        raise ServerUnreachable(f"{server.url} cannot be reached: no answer in time") from None


async def follow(composer: ComposerClient, job_id: str) -> Job:
    """Wait until a job has ended, and return it; on a terminal, show its state and progress meanwhile."""
    if not progress_console.is_terminal:
        return await composer.wait(job_id)
    with progress_console.status("") as line:
        async for job in composer.follow(job_id, every=0.5):
            partial = "" if job.partial is None else f" · {msgspec.json.encode(job.partial).decode()[:200]}"
            line.update(Text.assemble(shown(f"{job.type} {job.id}: "), shown(job.state), shown(partial)))
            if job.ended:
                return job
    raise AssertionError("follow() ends only after the job")


async def show_ends(composer: ComposerClient, jobs: Sequence[Job], as_json: bool) -> None:
    """Print ended jobs, those that finished first. Raises `Failure` unless all finished."""
    for job in sorted(jobs, key=lambda job: job.state != "finished"):
        if as_json:
            print_json(await composer.get_json(job.id))
        else:
            print_job(job)
    failed = [job for job in jobs if job.state != "finished"]
    if failed:
        others = f" ({len(failed)} of {len(jobs)} jobs did not finish)" if len(failed) > 1 else ""
        raise Failure(failure_of(failed[0]) + others, FAILED)


def status(job_id: str, server: Server, as_json: bool) -> None:
    """Show a job."""

    async def show() -> None:
        async with server.composer() as composer:
            if as_json:
                print_json(await composer.get_json(job_id))
            else:
                print_job(await composer.get(job_id))

    run(show())


def cancel(job_id: str, server: Server, as_json: bool) -> None:
    """Cancel a job and the jobs that depend on it."""

    async def send_cancel() -> None:
        async with server.composer() as composer:
            job = await composer.cancel(job_id)
            if as_json:
                print_json(await composer.get_json(job.id))
                return
            say(f"{job.id} is canceled")
            await _show_canceled_with(composer, job)

    run(send_cancel())


async def _show_canceled_with(composer: ComposerClient, job: Job) -> None:
    """Print the jobs that were canceled because they depend on a canceled job.

    Asks for at most `_MOST_DEPENDENTS` of them, one after the other, and prints the first `_MOST_NAMED`.
    """
    asked = set[str]()
    canceled: list[Job] = []
    left = deque(job.dependents)
    while left and len(asked) < _MOST_DEPENDENTS:
        one = left.popleft()
        if one not in asked:
            asked.add(one)
            dependent = await composer.get(one)
            if dependent.canceled and _end(dependent) >= _end(job):  # it was not canceled before
                canceled.append(dependent)
                left += dependent.dependents
    if not canceled:
        return
    count = f"At least {len(canceled)}" if set(left) - asked else str(len(canceled))
    say(f"{count} {'job that depends on it is' if count == '1' else 'jobs that depend on it are'} canceled too:")
    for dependent in canceled[:_MOST_NAMED]:
        say(f"  {dependent.id} {dependent.type}")
    if len(canceled) > _MOST_NAMED:
        say(f"  and {len(canceled) - _MOST_NAMED} more")


def _end(job: Job) -> datetime:
    assert job.finished_at is not None
    return job.finished_at


def delete(job_id: str, server: Server) -> None:
    """Delete an ended job and its artifacts now."""

    async def send_delete() -> None:
        async with server.composer() as composer:
            await composer.delete(job_id)
        say(f"{job_id} is deleted")

    run(send_delete())


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
            say(f"  not before {rfc3339(answer.delayed_until)}")

    run(show())


def jobs(
    states: tuple[str, ...], job_type: str | None, channel: str | None, limit: int, server: Server, as_json: bool
) -> None:
    """List jobs, newest first."""

    async def find() -> list[Job]:
        async with server.composer() as composer:
            return [job async for job in composer.list(limit, state=states or None, type=job_type, channel=channel)]

    found = run(find())
    if as_json:
        print_jobs(found, "jobs")
        return
    rows = [
        (job.id, job.type, job.arch or "any", job.state, str(job.priority), f"{job.queued_at:%Y-%m-%d %H:%M:%S}")
        for job in found
    ]
    print_table(("id", "type", "arch", "state", "priority", "queued at"), rows)


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
