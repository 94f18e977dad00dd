"""`composerd worker`: runs a command for each job."""

import asyncio
import logging
import platform
import signal
import sys

import click

from composerd.cli.console import Server, run, server_option
from composerd.cli.errors import FAILED
from composerd_client import Worker
from composerd_client.worker.command import Command
from composerd_client.worker.scratch import remove_left_directories
from composerd_protocol.escaping import LineFormatter
from composerd_protocol.journald import formatter_for_stderr


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: composerd worker --type build --arch aarch64 -- ./build-image",
)
@click.option("--type", "types", metavar="TYPE", multiple=True, required=True, help="Type of job to run; repeatable.")
@click.option(
    "--arch",
    default=platform.machine(),
    show_default=True,
    metavar="ARCH",
    help="Architecture this worker runs jobs for.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=1,
    show_default=True,
    help="Number of jobs to run at the same time.",
)
@click.option("--once", is_flag=True, help="Run one job, then exit; exit with 1 if it failed.")
@server_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def worker(
    types: tuple[str, ...], arch: str, concurrency: int, once: bool, server: Server, command: tuple[str, ...]
) -> None:
    """Request jobs from the server, and run COMMAND for each.

    COMMAND starts in an empty directory, with the job's args as JSON on stdin. Files that it leaves in the directory
    $COMPOSERD_JOB_ARTIFACTS are uploaded. If it writes JSON to the file $COMPOSERD_JOB_RESULT, that is the result;
    without it the result is the exit status and the output. Each line of JSON that it appends to the file
    $COMPOSERD_JOB_PROGRESS is shown as progress. The file $COMPOSERD_JOB_DYNAMIC_ARGS has the results of the job's
    dependencies. $COMPOSERD_JOB_ID, $COMPOSERD_JOB_TYPE and $COMPOSERD_JOB_ARCH describe the job.

    On SIGTERM running jobs are finished first; a second SIGTERM returns them to the queue.
    """
    if command[0].startswith("-"):
        raise click.NoSuchOption(command[0])
    handler = logging.StreamHandler()
    handler.setFormatter(formatter_for_stderr(LineFormatter("%(asctime)s %(levelname)-7s %(message)s")))
    logging.basicConfig(level="INFO", handlers=[handler])
    sys.exit(run(_work(types, arch, concurrency, once, server, command)))


async def _work(
    types: tuple[str, ...], arch: str, concurrency: int, once: bool, server: Server, command: tuple[str, ...]
) -> int:
    runner = Worker(server.url, **server.files, arch=arch, concurrency=1 if once else concurrency)
    handler = Command(command, arch)
    for name in types:
        runner.handler(name)(handler)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runner.stop)
    remove_left_directories()
    await runner.run(jobs=1 if once else None)
    return FAILED if once and handler.failed else 0
