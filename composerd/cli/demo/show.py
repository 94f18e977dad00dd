"""The demonstration: starts the processes, submits the graph, shows its progress, downloads artifacts, cleans up."""

import asyncio
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from rich.live import Live
from rich.table import Table

from composerd.cli.errors import Failure
from composerd.cli.running.console import console, failure_of, print_table, run, shown
from composerd.cli.running.jobs import download
from composerd_client import ComposerClient, GraphJob, Job
from composerd_protocol.exit_codes import FAILED
from composerd_protocol.units import format_size

WORKERS = 2
"""Number of workers for each architecture."""

_START_WITHIN = 20.0
"""Seconds that the server may take to start."""


def demo(keep: bool, manifests: tuple[Path, ...]) -> None:
    """Run a demonstration with a server, workers and a few jobs."""
    chosen = {path.stem: path.read_bytes() for path in manifests} or {"rhel_90-x86_64-tar": _own_manifest()}
    run(_demo(chosen, keep))


def _own_manifest() -> bytes:
    return files("composerd.cli.demo").joinpath("rhel_90-x86_64-tar.json").read_bytes()


async def _demo(manifests: dict[str, bytes], keep: bool) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="composerd-demo-"))
    try:
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(_server(scratch))
            _say(f"server   {server}, storage in {scratch / 'storage'}")
            for arch in sorted({_arch(name) for name in manifests}):
                for _ in range(WORKERS):
                    await stack.enter_async_context(_worker(server, arch))
                _say(f"workers  {WORKERS} for {arch}: composerd worker --type depsolve --type osbuild --type summary")
            composer = await stack.enter_async_context(ComposerClient(server, patience=10.0))
            jobs = await composer.submit_graph(graph(manifests))
            _say(f"graph    {len(jobs)} jobs: depsolve → osbuild → summary")
            ended = await _follow(composer, jobs)
            failed = [job for job in ended if job.state != "finished"]
            if failed:
                raise Failure(failure_of(failed[0]), FAILED)
            await _fetch(composer, ended, scratch / "downloads")
            summary = next(job for job in ended if job.type == "summary")
            _say(f"result   {msgspec.json.encode(summary.result).decode()}")
            if keep:
                _say(f"\nstill running; press Ctrl-C to stop, or try: composerd jobs --server {server}")
                await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
    _say("cleaned up")


def graph(manifests: dict[str, bytes]) -> list[GraphJob]:
    """Return the jobs: for each manifest a depsolve and an osbuild that depends on it, and one summary of all."""
    jobs: list[GraphJob] = []
    builds: list[str] = []
    for name, args in manifests.items():
        raw = msgspec.Raw(args)
        depsolve, build = f"depsolve-{name}"[:64], f"osbuild-{name}"[:64]
        jobs.append({"ref": depsolve, "type": "depsolve", "args": raw})
        jobs.append({"ref": build, "type": "osbuild", "arch": _arch(name), "args": raw, "dependencies": [depsolve]})
        builds.append(build)
    jobs.append({"ref": "summary", "type": "summary", "dependencies": builds})
    return jobs


def _arch(name: str) -> str:
    found = re.search(r"x86_64|aarch64|ppc64le|s390x", name)
    return found[0] if found else "x86_64"


@contextlib.asynccontextmanager
async def _process(*arguments: str, **kwargs: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a `composerd` process for the block; at the end it gets SIGTERM, and SIGKILL if it does not exit."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "composerd.cli.main", *arguments, **kwargs)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def _server(scratch: Path) -> AsyncIterator[str]:
    log = scratch / "server.log"
    with log.open("wb") as stderr:
        arguments = ("serve", "--listen", "127.0.0.1:0", "--storage", f"fs:{scratch / 'storage'}")
        async with _process(*arguments, stdout=asyncio.subprocess.PIPE, stderr=stderr) as process:
            assert process.stdout is not None
            try:
                async with asyncio.timeout(_START_WITHIN):
                    line = (await process.stdout.readline()).decode()
            except TimeoutError:
                line = ""
            if not line.startswith("listening on "):
                error = log.read_text().strip().rpartition("\n")[2]
                raise Failure(f"the server did not start: {error or 'it logged no error'}", FAILED)
            yield line.removeprefix("listening on ").strip()


def _worker(server: str, arch: str) -> contextlib.AbstractAsyncContextManager[asyncio.subprocess.Process]:
    types = [word for name in ("depsolve", "osbuild", "summary") for word in ("--type", name)]
    command = (sys.executable, "-m", "composerd.cli.demo.tasks")
    return _process(
        "worker", *types, "--arch", arch, "--server", server, "--", *command, stderr=asyncio.subprocess.DEVNULL
    )


async def _follow(composer: ComposerClient, jobs: Sequence[Job]) -> list[Job]:
    """Show the progress of jobs until all have ended, and return them."""
    state = {job.id: job for job in jobs}

    async def follow(job_id: str) -> None:
        async for job in composer.follow(job_id, every=0.25):
            if not console.is_terminal and job.state != state[job_id].state:
                _say(f"         {job.type:9} {job.state}")
            state[job_id] = job

    async with asyncio.TaskGroup() as tasks:
        for job in jobs:
            tasks.create_task(follow(job.id))
        if console.is_terminal:
            tasks.create_task(_draw(state))
    return list(state.values())


async def _draw(state: dict[str, Job]) -> None:
    with Live(_table(state), console=console, refresh_per_second=10) as live:
        while not all(job.ended for job in state.values()):
            live.update(_table(state))
            await asyncio.sleep(0.1)
        live.update(_table(state))


def _table(state: dict[str, Job]) -> Table:
    table = Table("job", "type", "arch", "state", "progress", box=None, header_style="bold", pad_edge=False)
    for job in state.values():
        partial = job.partial if isinstance(job.partial, dict) else {}
        progress = f"{partial['pipeline']} ({partial['done']} of {partial['of']})" if "pipeline" in partial else ""
        table.add_row(*(shown(cell) for cell in (job.id[:8], job.type, job.arch or "any", job.state, progress)))
    return table


async def _fetch(composer: ComposerClient, jobs: Sequence[Job], directory: Path) -> None:
    """Download all artifacts, and list them; the client checks their digests."""
    rows: list[tuple[str, ...]] = []
    for job in jobs:
        found = await composer.artifacts(job.id)
        await download(composer, found, directory / job.id)
        rows.extend((job.type, one.name, format_size(one.size), f"sha256 {one.sha256[:12]}… checked") for one in found)
    _say("artifacts")
    print_table(("job", "name", "size", "digest"), rows)


def _say(line: str) -> None:
    console.print(line, markup=False)
