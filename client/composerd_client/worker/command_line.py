"""The command `composerd-worker`, for machines that only run jobs; `composerd worker` is the same command elsewhere."""

import asyncio
import os
import re
import shutil
import sys
import textwrap
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from composerd_client.failures import explain
from composerd_client.worker.program import work
from composerd_protocol.escaping import escaped, without_bearer_tokens
from composerd_protocol.exit_codes import WRONG
from composerd_protocol.journald import error_for_stderr
from composerd_protocol.private_memory import keep_memory_private
from composerd_protocol.worker_options import EXAMPLE, HELP, OPTIONS

_MOST_COLUMNS = 110
"""Width of the help on a wide terminal."""


class _Parser(ArgumentParser):
    """Reports errors as `composerd worker` does: one sentence on stderr."""

    def error(self, message: str) -> NoReturn:
        self.fail(re.sub("^argument (--[a-z-]+): ", r"Invalid value for '\1': ", message), WRONG)

    def fail(self, message: str, code: int) -> NoReturn:
        """Print a message, and exit."""
        self.exit(code, f"{error_for_stderr(f'{self.prog}: {without_bearer_tokens(escaped(message))}')}\n")


def main() -> None:
    """Run the command, and exit."""
    keep_memory_private()
    parser, words = _parser(os.environ), sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    values, command = parser.parse_known_args(words[:end])  # words of COMMAND may stand among the options
    command += words[end + 1 :]
    if not command:
        parser.error("Missing argument 'COMMAND...'.")
    if command[0].startswith("-"):
        parser.error(f"No such option {command[0]!r}.")
    try:
        sys.exit(asyncio.run(work(command, **vars(values))))
    except Exception as exc:
        explained = explain(exc)
        if explained is None:
            raise
        parser.fail(*explained)


def _parser(environ: Mapping[str, str]) -> _Parser:
    """Return the parser of the options, whose defaults may come from the environment."""
    width = min(shutil.get_terminal_size().columns, _MOST_COLUMNS) - 2
    parser = _Parser(
        "composerd-worker",
        usage="%(prog)s [OPTIONS] COMMAND...",
        description="\n\n".join(textwrap.fill(" ".join(text.split()), width) for text in HELP.split("\n\n")),
        epilog=f"Example: %(prog)s {EXAMPLE}",
        formatter_class=partial(RawDescriptionHelpFormatter, max_help_position=30, width=width),
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("Options")
    for option in OPTIONS:
        shown = (option.shown_help + ("  [required]" if option.required else "")).replace("%", "%%")
        if option.metavar is None:
            group.add_argument(option.flag, dest=option.name, action="store_true", help=shown)
            continue
        group.add_argument(
            option.flag,
            dest=option.name,
            metavar=option.metavar,
            type=partial(_value, option.parse),
            action="append" if option.repeatable else "store",
            default=environ.get(option.variable or "") or option.default,
            required=option.required,
            help=shown,
        )
    group.add_argument("-h", "--help", action="help", help="Show this message and exit.")
    return parser


def _value(parse: Callable[[str], Any], text: str) -> Any:
    """Return the value of a text. Raises the error whose message argparse keeps, instead of `ValueError`."""
    try:
        return parse(text)
    except ValueError as exc:
        raise ArgumentTypeError(str(exc)) from exc
