"""`composerd probe`: tries a server from outside, through the proxies in between."""

from typing import Any

import click

from composerd.cli.options import Parsed, json_option
from composerd.cli.server import server_argument
from composerd_protocol.units import number, parse_duration, parse_size


@click.command(
    short_help="Try a server from outside, through the proxies in between.",
    epilog="Example: composerd probe https://composer.example.com --wait 10m",
)
@click.option(
    "--wait",
    type=Parsed(parse_duration),
    default="70s",
    show_default=True,
    metavar="DURATION",
    help="Duration of the long wait.",
)
@click.option(
    "--waiters",
    type=Parsed(number(1, 20_000)),
    default=300,
    show_default=True,
    metavar="N",
    help="Number of workers that wait at the same time.",
)
@click.option(
    "--size",
    type=Parsed(parse_size),
    default="8MiB",
    show_default=True,
    metavar="SIZE",
    help="Size of each slow upload.",
)
@server_argument
@json_option
def probe(**options: Any) -> None:
    """Try the server at URL from outside, through the proxies in between, and print what to change there.

    It submits jobs of types that nobody else has, and removes them at the end. It takes about as long as the long
    wait. Exits with 1 if something is wrong.
    """
    from composerd.cli.running import probe

    probe.probe(**options)
