"""`composerd submit`: submits a job from the command line, or a graph of jobs from a file."""

from pathlib import Path
from typing import Any

import click

from composerd.cli import completing
from composerd.cli.completing import UNENDED
from composerd.cli.jobs import overwrite_option
from composerd.cli.options import Parsed, json_option
from composerd.cli.server import server_option
from composerd_protocol.units import number


@click.command(epilog="Example: composerd submit osbuild --args @manifest.json --wait --download .")
@click.argument("job_type", metavar="[TYPE]", required=False, shell_complete=completing.types)
@click.option(
    "--args",
    "args_text",
    metavar="JSON|@FILE|-",
    shell_complete=completing.json_or_file,
    help="Arguments of the job: JSON, @ and a file, or - for stdin.",
)
@click.option("--arch", metavar="ARCH", help="Only workers of this architecture may run it.")
@click.option(
    "--channel", metavar="CHANNEL", shell_complete=completing.channels, help="Channel that the job belongs to."
)
@click.option(
    "--depends-on",
    "dependencies",
    metavar="ID",
    multiple=True,
    shell_complete=completing.jobs(*UNENDED, "finished", "failed"),
    help="ID of a job that must end first; repeatable.",
)
@click.option(
    "--priority", type=Parsed(number(-100, 100)), metavar="N", help="Priority from -100 to 100; higher ones run first."
)
@click.option(
    "--not-before", metavar="TIME", help="Earliest start: a time (RFC 3339) or a duration from now, such as 10m."
)
@click.option("--timeout", metavar="DURATION", help="Longest time that one attempt may run, such as 2h.")
@click.option(
    "--max-retries",
    type=Parsed(number(0, 100)),
    metavar="N",
    help="How many times the job is tried again after its worker disappears. [default: the server's setting]",
)
@click.option(
    "--retry-on-failure",
    type=Parsed(number(0, 100)),
    metavar="N",
    help="How many times the job is tried again after it fails. [default: 0]",
)
@click.option(
    "--on-dependency-failure",
    type=click.Choice(["run", "fail"]),
    help="When a dependency fails: run anyway, or fail too. [default: run]",
)
@click.option(
    "--retention",
    metavar="DURATION",
    help="How long the ended job is kept, such as 14d; 0: until it is deleted. [default: the server's setting]",
)
@click.option(
    "--key",
    "idempotency_key",
    metavar="KEY",
    help="Idempotency key: submitting again with the same key returns the existing job.",
)
@click.option(
    "--graph",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Submit all jobs in a JSON or TOML file, or none: a list `jobs` of objects with `type`, `args` and so on; "
    "later jobs name an earlier job's `ref` in `dependencies`.",
)
@click.option(
    "--wait",
    "waits",
    is_flag=True,
    help="Wait until it ends; exit with 1 if it failed. Ctrl-C stops waiting, the job goes on.",
)
@click.option(
    "--download",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="With --wait: download its artifacts into this directory.",
)
@overwrite_option
@server_option
@json_option
def submit(**options: Any) -> None:
    """Submit a job of a TYPE or a graph of jobs, and print the IDs."""
    from composerd.cli.running import submit

    submit.submit(**options)
