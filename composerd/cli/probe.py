"""`composerd probe`: tries a server from outside, through the proxies in between."""

import asyncio
import signal
import sys
import textwrap

import click
import msgspec

from composerd.cli.console import Server, console, json_option, print_json, run, say, server_argument
from composerd.cli.options import Parsed
from composerd.probe import Finding, Options, Target
from composerd.probe import probe as run_checks
from composerd_protocol.exit_codes import FAILED
from composerd_protocol.units import number, parse_duration, parse_size

_INDENT = " " * 6


@click.command(epilog="Example: composerd probe https://composer.example.com --wait 10m")
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
def probe(wait: float, waiters: int, size: int, server: Server, as_json: bool) -> None:
    """Try the server at URL from outside, through the proxies in between, and print what to change there.

    It submits jobs of types that nobody else has, and removes them at the end. It takes about as long as the long
    wait. Exits with 1 if something is wrong.
    """
    options = Options(wait, waiters, size)
    found: list[Finding] = []

    def report(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            _print(f"{finding.outcome.value:6}{finding.check}: {finding.seen}")
            if finding.change:
                _print(f"{_INDENT}{finding.change}")

    async def check() -> bool:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # its jobs are removed then too
        return await run_checks(Target(server.url, server.options), options, report)

    try:
        right = run(check(), unreachable="check URL")
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    if as_json:
        print_json(msgspec.json.encode(found))
    sys.exit(0 if right else FAILED)


def _print(text: str) -> None:
    """Print a text, on a terminal in lines that are no longer than it is wide."""
    width = console.width if console.is_terminal else len(text) + 1
    for line in textwrap.wrap(text, width, subsequent_indent=_INDENT, break_on_hyphens=False):
        say(line)
