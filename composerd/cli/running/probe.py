"""`composerd probe`: tries a server from outside, through the proxies in between."""

import asyncio
import signal
import sys
import textwrap

import msgspec

from composerd.cli.running.console import console, print_json, run, say
from composerd.cli.server import Server
from composerd.probe import Finding, Options, Target
from composerd.probe import probe as run_checks
from composerd_protocol.exit_codes import FAILED

_INDENT = " " * 6


def probe(wait: float, waiters: int, size: int, server: Server, as_json: bool) -> None:
    """Try the server at URL from outside, through the proxies in between, and print what to change there."""
    options = Options(wait, waiters, size)
    found: list[Finding] = []
    unwritten: list[OSError] = []

    async def check() -> bool:
        task = asyncio.current_task()
        assert task is not None

        def report(finding: Finding) -> None:
            found.append(finding)
            if not as_json:
                try:
                    _print(f"{finding.outcome.value:6}{finding.check}: {finding.seen}")
                    if finding.change:
                        _print(f"{_INDENT}{finding.change}")
                except OSError as exc:  # the reader of a pipe has closed it
                    unwritten.append(exc)
                    task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # its jobs are removed then too
        return await run_checks(Target(server.url, server.arguments), options, report)

    try:
        right = run(check(), unreachable="check URL")
    except asyncio.CancelledError:
        if unwritten:
            raise unwritten[0] from None
        sys.exit(128 + signal.SIGTERM)
    if as_json:
        print_json(msgspec.json.encode(found))
    sys.exit(0 if right else FAILED)


def _print(text: str) -> None:
    """Print a text, on a terminal in lines that are no longer than it is wide."""
    width = console.width if console.is_terminal else len(text) + 1
    for line in textwrap.wrap(text, width, subsequent_indent=_INDENT, break_on_hyphens=False):
        say(line)
