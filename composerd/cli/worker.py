"""`composerd worker`: runs a command for each job."""

import asyncio
import logging
import platform
import signal
import sys

import click

from composerd.cli.command import Command
from composerd.cli.console import Server, run, server_option
from composerd.cli.errors import FAILED
from composerd.client import Worker


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: composerd worker --type osbuild -- sh -c 'osbuild - --output-directory $COMPOSERD_ARTIFACTS'",
)
@click.option("--type", "types", metavar="TYPE", multiple=True, required=True, help="A type of job to run; repeatable.")
@click.option("--arch", default=platform.machine(), show_default=True, metavar="ARCH", help="What it can build for.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=1, show_default=True, help="Jobs at a time.")
@click.option("--once", is_flag=True, help="Run one job, then end; exits 1 if it failed.")
@server_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def worker(
    types: tuple[str, ...], arch: str, concurrency: int, once: bool, server: Server, command: tuple[str, ...]
) -> None:
    """Ask the server for jobs, and run COMMAND for each.

    It is started in an empty directory with the job's args as JSON on stdin. Files that it leaves in the directory
    $COMPOSERD_ARTIFACTS are uploaded. JSON that it writes to the file $COMPOSERD_RESULT is the result; else its exit
    status and output are. Each JSON line that it appends to the file $COMPOSERD_PROGRESS is shown as progress. The
    results of the jobs that it depends on are in the file $COMPOSERD_DYNAMIC_ARGS; $COMPOSERD_JOB_ID,
    $COMPOSERD_JOB_TYPE and $COMPOSERD_ARCH say what it is.

    SIGTERM lets jobs that run come to their end; a second one gives them back.
    """
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(message)s")
    sys.exit(run(_work(types, arch, concurrency, once, server, command)))


async def _work(
    types: tuple[str, ...], arch: str, concurrency: int, once: bool, server: Server, command: tuple[str, ...]
) -> int:
    asking = Worker(server.url, **server.files, arch=arch, concurrency=1 if once else concurrency)
    runner = Command(command, arch)
    for name in types:
        asking.handler(name)(runner)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asking.stop)
    await asking.run(jobs=1 if once else None)
    return FAILED if once and runner.failed else 0
