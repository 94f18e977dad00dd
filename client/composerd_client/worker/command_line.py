"""The command `composerd-worker`, for machines that only run jobs; `composerd worker` is the same command elsewhere."""

import asyncio
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from composerd_client.failures import explain
from composerd_client.options import Option
from composerd_client.worker.options import EXAMPLE, HELP, OPTIONS
from composerd_client.worker.program import work
from composerd_protocol.escaping import escaped
from composerd_protocol.exit_codes import WRONG
from composerd_protocol.journald import error_for_stderr

PROGRAM = "composerd-worker"

_HELP_FLAGS = ("-h", "--help")

_MOST_COLUMNS = 110
"""Width of the help on a wide terminal."""


class UsageError(Exception):
    """The command line is wrong; the message is one sentence."""


class CommandLine(NamedTuple):
    """A command line that was read."""

    values: Mapping[str, Any]
    """The values of all options, by the name of the argument."""
    command: Sequence[str]


class _Words(NamedTuple):
    """The words of a command line, sorted."""

    given: Mapping[str, Sequence[str]]
    """The texts that were given for options, by the name of the argument."""
    command: Sequence[str]
    help: bool


def main() -> None:
    """Run the command, and exit."""
    sys.exit(_run(sys.argv[1:], os.environ))


def _run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command, and return its exit code."""
    try:
        words = _sorted(arguments)
        if words.help:
            sys.stdout.write(_help())
            return 0
        read = _read(words, environ)
        return asyncio.run(work(read.command, **read.values))
    except UsageError as exc:
        return _say(str(exc), WRONG)
    except Exception as exc:
        explained = explain(exc)
        if explained is None:
            raise
        return _say(*explained)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"{error_for_stderr(f'{PROGRAM}: {escaped(message)}')}\n")
    return code


def _sorted(arguments: Sequence[str]) -> _Words:
    """Tell options from the words of COMMAND, which may stand among them. Raises `UsageError`."""
    flags = {option.flag: option for option in OPTIONS}
    given: dict[str, list[str]] = {}
    command: list[str] = []
    wants_help = False
    left = iter(arguments)
    for word in left:
        if word == "--":
            command.extend(left)
            break
        flag, equals, text = word.partition("=")
        option = flags.get(flag)
        if option is None:
            wants_help = wants_help or word in _HELP_FLAGS
            command.append(word)
        elif option.metavar is None:
            if equals:
                raise UsageError(f"Option {flag!r} does not take a value.")
            given[option.name] = [""]
        else:
            value = text if equals else next(left, None)
            if value is None:
                raise UsageError(f"Option {flag!r} requires an argument.")
            given.setdefault(option.name, []).append(value)
    return _Words(given, command, wants_help)


def _read(words: _Words, environ: Mapping[str, str]) -> CommandLine:
    """Return the values of all options. Raises `UsageError`."""
    if not words.command:
        raise UsageError("Missing argument 'COMMAND...'.")
    values = {option.name: _value(option, words.given.get(option.name), environ) for option in OPTIONS}
    if words.command[0].startswith("-"):
        raise UsageError(f"No such option {words.command[0]!r}.")
    return CommandLine(values, words.command)


def _value(option: Option, given: Sequence[str] | None, environ: Mapping[str, str]) -> Any:
    """Return the value of an option from the command line, the environment or its default. Raises `UsageError`."""
    if option.metavar is None:
        return given is not None
    texts = given or list(filter(None, (environ.get(option.variable or "") or option.default,)))
    if option.required and not texts:
        raise UsageError(f"Missing option {option.flag!r}.")
    try:
        values = [option.parse(text) for text in texts]
    except ValueError as exc:
        raise UsageError(f"Invalid value for {option.flag!r}: {exc}") from exc
    if option.repeatable:
        return values
    return values[-1] if values else None


def _help() -> str:
    """Return the help, as wide as the terminal."""
    columns = min(shutil.get_terminal_size().columns, _MOST_COLUMNS) - 2
    rows = [(f"{option.flag} {option.metavar or ''}".rstrip(), _shown(option)) for option in OPTIONS]
    rows.append((", ".join(_HELP_FLAGS), "Show this message and exit."))
    width = max(len(first) for first, _ in rows) + 4
    paragraphs = [_filled(text, columns, "  ", "  ") for text in HELP.split("\n\n")]
    options = "\n".join(_filled(help, columns, f"  {first}".ljust(width), " " * width) for first, help in rows)
    usage = f"Usage: {PROGRAM} [OPTIONS] COMMAND..."
    return "\n\n".join([usage, *paragraphs, f"Options:\n{options}", f"  Example: {PROGRAM} {EXAMPLE}\n"])


def _shown(option: Option) -> str:
    return option.shown_help + ("  [required]" if option.required else "")


def _filled(text: str, columns: int, first: str, later: str) -> str:
    """Return a text in lines that begin with `first` and then `later`."""
    words = " ".join(text.split())
    return textwrap.fill(words, columns, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
