"""Options of click commands from the rows of a table, as `composerd-worker` has them without click."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from composerd.cli import completing
from composerd_protocol.options import Option

F = TypeVar("F", bound=Callable[..., Any])

_COMPLETE = {
    "FILE": completing.files,
    "COMMAND": completing.files,
    "TYPE": completing.types,
    "NAME": completing.profiles,
}
"""The completion of a value, by its word in the help."""


class Parsed(click.ParamType[Any]):
    """The type of a value that a function reads from text; its `ValueError` says what is wrong."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text; anything else is a value already."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


def with_options(options: Sequence[Option]) -> Callable[[F], F]:
    """Return a decorator that adds options to a command."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = _click_option(option)(command)
        return command

    return decorate


def _click_option(option: Option) -> Callable[[F], F]:
    if option.metavar is None:
        return click.option(option.flag, option.name, is_flag=True, help=option.shown_help)
    return click.option(
        option.flag,
        option.name,
        type=Parsed(option.parse),
        metavar=option.metavar,
        envvar=option.variable,
        default=option.default,
        multiple=option.repeatable,
        required=option.required,
        help=option.shown_help,
        shell_complete=_COMPLETE.get(option.metavar),
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
