"""`composerd wait`, `status`, `cancel`, `delete`, `why`, `jobs` and `artifacts`: commands for submitted jobs."""

from pathlib import Path
from typing import Any

import click

from composerd.cli import completing
from composerd.cli.completing import ENDED, UNENDED
from composerd.cli.options import Parsed, json_option
from composerd.cli.server import server_option
from composerd_protocol.units import number, parse_duration

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="With --download: replace files that exist, instead of stopping."
)


@click.command(epilog="Example: composerd wait 0b6a… --timeout 10m")
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs(*UNENDED))
@click.option(
    "--timeout", type=Parsed(parse_duration), metavar="DURATION", help="Give up after this time, such as 10m."
)
@server_option
@json_option
def wait(**options: Any) -> None:
    """Wait until a job has ended.

    Exits with 1 if it failed or was canceled, with 3 if the server is unavailable, and with 4 after the timeout.
    """
    from composerd.cli.running import jobs

    jobs.wait(**options)


@click.command(epilog="Example: composerd status 0b6a…")
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs())
@server_option
@json_option
def status(**options: Any) -> None:
    """Show a job."""
    from composerd.cli.running import jobs

    jobs.status(**options)


@click.command(epilog="Example: composerd cancel 0b6a…")
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs(*UNENDED))
@server_option
@json_option
def cancel(**options: Any) -> None:
    """Cancel a job and the jobs that depend on it."""
    from composerd.cli.running import jobs

    jobs.cancel(**options)


@click.command(epilog="Example: composerd delete 0b6a…")
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs(*ENDED))
@server_option
def delete(**options: Any) -> None:
    """Delete an ended job and its artifacts now.

    Without this command they are deleted when the job's retention is over.
    """
    from composerd.cli.running import jobs

    jobs.delete(**options)


@click.command(epilog="Example: composerd why 0b6a…")
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs("waiting", "ready"))
@server_option
@json_option
def why(**options: Any) -> None:
    """Explain why a job is not running."""
    from composerd.cli.running import jobs

    jobs.why(**options)


@click.command(epilog="Example: composerd jobs --state ready --state running --limit 20")
@click.option(
    "--state",
    "states",
    type=click.Choice([*UNENDED, *ENDED]),
    multiple=True,
    help="List only jobs in this state; repeatable.",
)
@click.option(
    "--type", "job_type", metavar="TYPE", shell_complete=completing.types, help="List only jobs of this type."
)
@click.option(
    "--channel", metavar="CHANNEL", shell_complete=completing.channels, help="List only jobs of this channel."
)
@click.option(
    "--limit",
    type=Parsed(number(1, 999_999_999)),
    metavar="N",
    default=100,
    show_default=True,
    help="List at most this many.",
)
@server_option
@json_option
def jobs(**options: Any) -> None:
    """List jobs, newest first."""
    from composerd.cli.running import jobs

    jobs.jobs(**options)


@click.command(epilog="Example: composerd artifacts 0b6a… --download .")
@click.argument("job_id", metavar="ID", shell_complete=completing.jobs("finished", "failed"))
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
def artifacts(**options: Any) -> None:
    """List or download the artifacts of a job."""
    from composerd.cli.running import jobs

    jobs.artifacts(**options)
