"""`composerd worker`: runs a command for each job, with the options and the help of `composerd-worker`."""

import sys
from typing import Any

import click

from composerd.cli import completing
from composerd.cli.options import with_options
from composerd_protocol.worker_options import EXAMPLE, HELP, OPTIONS


@click.command(
    context_settings={"ignore_unknown_options": True}, help=HELP, epilog=f"Example: composerd worker {EXAMPLE}"
)
@with_options(OPTIONS)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=completing.files)
def worker(command: tuple[str, ...], **options: Any) -> None:
    """Run jobs."""
    if command[0].startswith("-"):
        raise click.NoSuchOption(command[0])
    from composerd.cli.running.console import run
    from composerd_client.worker.program import work

    sys.exit(run(work(command, **options)))
