"""`composerd token`: commands that change and read a tokens file, without a server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from composerd.cli import completing
from composerd.cli.options import Parsed, json_option
from composerd.identity.roles import Role
from composerd_protocol.units import parse_duration

F = TypeVar("F", bound=Callable[..., Any])


def _name(text: str) -> str:
    from composerd.identity.tokens.entries import checked

    return checked("it", text)


def _expiry(text: str) -> float | None:
    from composerd.cli.running.token import expiry

    return expiry(text)


def _tokens_option(command: F) -> F:
    return click.option(
        "--tokens",
        "path",
        required=True,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        envvar="COMPOSERD_TOKENS",
        help="Tokens file of the server. Environment: COMPOSERD_TOKENS.",
        shell_complete=completing.files,
    )(command)


_expires_option = click.option(
    "--expires",
    type=Parsed(_expiry),
    metavar="D|TIME|never",
    default="90d",
    show_default=True,
    help="When the token expires: after a duration such as 90d, at a time, or never.",
)

_name_argument = click.argument("name", metavar="NAME", type=Parsed(_name), shell_complete=completing.token_names)


@click.group()
def token() -> None:
    """Create, list, verify, rotate and revoke tokens of a tokens file.

    A server with --tokens FILE notices a change of the file within 2 s.
    """


@token.command(epilog="Example: composerd token create --role worker --name builder-7 --tokens tokens > token")
@click.option("--name", required=True, type=Parsed(_name), metavar="NAME", help="Name of the identity.")
@click.option(
    "--role",
    required=True,
    type=click.Choice([role.value for role in Role]),
    help="What the identity may do: run jobs, submit and read jobs, read them, everything, read metrics.",
)
@click.option("--tenant", type=Parsed(_name), metavar="TENANT", help="Tenant of the identity.  [default: none]")
@_expires_option
@_tokens_option
def create(**options: Any) -> None:
    """Add a token, and print its secret, which cannot be shown again.

    The secret is all that is printed on stdout. The file has a hash of it only; it is made if it does not exist.
    """
    from composerd.cli.running import token as running

    running.create(**options)


@token.command("list", epilog="Example: composerd token list --tokens /etc/composerd/tokens")
@_tokens_option
@json_option
def list_tokens(**options: Any) -> None:
    """List the tokens of a file, also those that have expired or are revoked."""
    from composerd.cli.running import token as running

    running.list_tokens(**options)


@token.command(epilog="Example: composerd token revoke builder-7 --tokens /etc/composerd/tokens")
@_name_argument
@_tokens_option
def revoke(**options: Any) -> None:
    """Revoke every token of an identity."""
    from composerd.cli.running import token as running

    running.revoke(**options)


@token.command(epilog="Example: composerd token rotate builder-7 --tokens /etc/composerd/tokens > token")
@_name_argument
@_expires_option
@click.option(
    "--overlap",
    type=Parsed(parse_duration),
    metavar="D",
    default="1d",
    show_default=True,
    help="How long the identity's other tokens still work.",
)
@_tokens_option
def rotate(**options: Any) -> None:
    """Add a token for an identity that has one, and print its secret.

    The identity stays the same, so a worker that changes to the new token in the middle of a job keeps the job.
    """
    from composerd.cli.running import token as running

    running.rotate(**options)


@token.command(epilog="Example: composerd token verify --tokens /etc/composerd/tokens < token")
@_tokens_option
@json_option
def verify(**options: Any) -> None:
    """Read a token from stdin, and say whose it is.

    Exits with 1 if it is nobody's, has expired or is revoked, and says so; a typing error is told from a wrong token.
    """
    from composerd.cli.running import token as running

    running.verify(**options)
