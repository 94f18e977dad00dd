"""`composerd demo`: runs a server, workers and a few jobs in a scratch directory, to show how they work together."""

from pathlib import Path
from typing import Any

import click


@click.command(epilog="Example: composerd demo --keep")
@click.option("--keep", is_flag=True, help="Keep the server and the workers running until Ctrl-C.")
@click.option(
    "--manifest",
    "manifests",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="File with the args of an osbuild job, to use instead of the one that comes with composerd; repeatable.",
)
def demo(**options: Any) -> None:
    """Run a demonstration with a server, workers and a few jobs.

    The jobs form a graph and run real commands; you see their progress and artifacts. Everything is in a scratch
    directory, which is removed afterwards.
    """
    from composerd.cli.demo import show

    show.demo(**options)
