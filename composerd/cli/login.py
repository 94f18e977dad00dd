"""`composerd login`, `logout` and `whoami`: who the user is for a server."""

from typing import Any

import click

from composerd.cli.options import json_option, with_options
from composerd.cli.server import server_option
from composerd_protocol.options import OAUTH_OPTIONS, SERVER_OPTIONS

_STORED = [option for option in SERVER_OPTIONS if option.name != "server"]


@click.command(epilog="Example: composerd login https://composer.example.com < token")
@click.argument("server", metavar="[URL]", required=False, envvar="COMPOSERD_SERVER")
@with_options(_STORED)
@with_options([option._replace(name=f"oauth_{option.name}") for option in OAUTH_OPTIONS])
def login(**options: Any) -> None:
    """Store who you are for a server in a profile.

    All commands use the profile and its server, URL, from then on.

    Asks for a token, or reads it from stdin. With --oauth-token-url it asks for the secret of the client instead, or
    stores the name of the file that has it; with --token-file or --cert-file it stores the names of the files.
    The server is asked first who you are, and nothing is stored if it refuses that.
    Without URL, the server of the profile stays the same.
    """
    from composerd.cli.running import login

    login.login(**options)


@click.command(epilog="Example: composerd logout --profile staging")
@with_options([option for option in SERVER_OPTIONS if option.name == "profile"])
def logout(profile: str | None) -> None:
    """Remove a profile and its secret.

    Only what `composerd login` has stored is removed. Tokens stay valid until they expire or are revoked.
    """
    from composerd.cli.running import login

    login.logout(profile)


@click.command(epilog="Example: composerd whoami --token-file token")
@server_option
@json_option
def whoami(**options: Any) -> None:
    """Show who the server takes you for."""
    from composerd.cli.running import login

    login.whoami(**options)
