"""`composerd whoami`: who the server takes the user for."""

from typing import Any

import click

from composerd.cli.options import json_option
from composerd.cli.server import server_option


@click.command(epilog="Example: composerd whoami --token-file token")
@server_option
@json_option
def whoami(**options: Any) -> None:
    """Show who the server takes you for."""
    from composerd.cli.running import login

    login.whoami(**options)
