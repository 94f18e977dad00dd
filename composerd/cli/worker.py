"""`composerd worker`: runs a command for each job, with the options and the help of `composerd-worker`."""

import sys
from typing import Any

import click

from composerd.cli.console import run
from composerd.cli.options import with_options
from composerd_client.worker.program import work
from composerd_protocol.worker_options import EXAMPLE, HELP, OPTIONS


@click.command(
    context_settings={"ignore_unknown_options": True}, help=HELP, epilog=f"Example: composerd worker {EXAMPLE}"
)
@with_options(OPTIONS)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def worker(command: tuple[str, ...], **options: Any) -> None:
    """Run jobs."""
    if command[0].startswith("-"):
        raise click.NoSuchOption(command[0])
    sys.exit(run(work(command, **options)))
