"""Completion of values in shells: click asks these functions for the candidates of an option or an argument."""

import re
from collections.abc import Callable

from click import Context, Parameter
from click.shell_completion import CompletionItem

Candidates = list[CompletionItem[str]]

Complete = Callable[[Context, Parameter, str], Candidates]
"""Returns the candidates for the unfinished value of a parameter."""

SAFE = re.compile(r"[\w.:/@%+=-]+", re.ASCII)
"""A value that neither a shell nor click's scripts interpret: servers and names of files are not trusted."""

_MOST_OF_A_FILE = 4 * 1024**2
"""The most bytes of a tokens file that are read for a completion."""

UNENDED = ("waiting", "ready", "running")
ENDED = ("finished", "failed", "canceled")


def files(_ctx: Context, _param: Parameter, value: str) -> Candidates:
    """Let the shell complete the path of a file."""
    return [CompletionItem(value, type="file")]


def directories(_ctx: Context, _param: Parameter, value: str) -> Candidates:
    """Let the shell complete the path of a directory."""
    return [CompletionItem(value, type="dir")]


def json_or_file(_ctx: Context, _param: Parameter, value: str) -> Candidates:
    """Return `@`, or let the shell complete the path of the file behind it."""
    if value.startswith("@"):
        return [CompletionItem(value[1:], type="file")]
    return [] if value else [CompletionItem("@")]


def storages(_ctx: Context, _param: Parameter, value: str) -> Candidates:
    """Return the schemes of the installed drivers, none of which is imported, or let the shell complete a directory."""
    scheme, colon, path = value.partition(":")
    if colon:
        return [CompletionItem(path, type="dir")]
    from importlib.metadata import entry_points  # takes as long as click, and only storages need it

    schemes = (point.name for point in entry_points(group="composerd.drivers"))
    found = [CompletionItem(f"{name}:") for name in schemes if name.startswith(scheme)]
    return found or [CompletionItem(value, type="dir")]


def profiles(_ctx: Context, _param: Parameter, value: str) -> Candidates:
    """Complete the name of a profile of the user."""
    from composerd_protocol.profiles import profile_names

    return [CompletionItem(one) for one in profile_names() if one.startswith(value)]


def words(*known: str) -> Complete:
    """Return a function that completes one of some words."""
    return lambda _ctx, _param, value: [CompletionItem(one) for one in known if one.startswith(value)]


def jobs(*states: str) -> Complete:
    """Return a function that completes the id of a job in one of the states; without any, of all jobs."""
    return _asked("jobs", *states)


def _asked(what: str, *states: str) -> Complete:
    def complete(ctx: Context, _param: Parameter, value: str) -> Candidates:
        from composerd.cli.completing import server  # HTTP takes as long as click, and few need it

        found = server.ask(what, ctx.params, states)
        return [CompletionItem(one, help=help) for one, help in found if one.startswith(value)]

    return complete


types = _asked("types")
"""Completes the type of a job or a worker."""

channels = _asked("channels")
"""Completes the channel of a job or a worker."""


def token_names(ctx: Context, _param: Parameter, value: str) -> Candidates:
    """Return the names of the tokens that are not revoked, in the file that the options name."""
    from composerd.identity.tokens.entries import parse_table  # few need it

    try:
        with open(ctx.params["path"], "rb") as file:  # noqa: PTH123  # pathlib takes long
            tokens = parse_table(file.read(_MOST_OF_A_FILE)).by_id.values()
    except (OSError, TypeError, ValueError):
        return []
    names = sorted({entry.name for entry in tokens if entry.revoked is None})
    return [CompletionItem(one) for one in names if one.startswith(value)]
