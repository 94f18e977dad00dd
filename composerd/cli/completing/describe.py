"""Writes `commands.json`, the description of the commands: `python -m composerd.cli.completing.describe`."""

import json
import re
from collections.abc import Mapping
from typing import Any

import click

from composerd.cli.commands import composerd
from composerd.cli.completing.command_line import TABLE
from composerd.settings import SETTINGS
from composerd.settings.values import OneOf, readable_file

_KINDS = {
    "ID": "ids",
    "TYPE": "types",
    "[TYPE]": "types",
    "CHANNEL": "channels",
    "FILE": "file",
    "DIR": "dir",
    "DIR|URL": "dir",
    "JSON|@FILE|-": "args",
}
"""The kinds of values, by their word in the help."""

_UNENDED = ("waiting", "ready", "running")
_ENDED = ("finished", "failed", "canceled")

_STATES = {
    "wait": _UNENDED,
    "cancel": _UNENDED,
    "why": ("waiting", "ready"),
    "delete": _ENDED,
    "artifacts": ("finished", "failed"),
    "submit": (*_UNENDED, "finished", "failed"),
}
"""The states of the jobs with which a command can do something; a command that is not here takes all."""

_SETTINGS = {setting.option: setting for setting in SETTINGS}


def describe(command: click.Command, name: str = "composerd") -> Mapping[str, Any]:
    """Return the description of a command with its subcommands."""
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    parameters = command.get_params(context)
    described: dict[str, Any] = {
        "help": _first_sentence(command.get_short_help_str(limit=1000)),
        "options": {
            one.opts[-1]: {
                "help": _first_sentence(one.help or ""),
                "several": one.multiple,
                "value": _value(name, one),
                **({"variable": one.envvar} if one.envvar else {}),
                **({"default": one.default} if one.envvar and isinstance(one.default, str) else {}),
            }
            for one in parameters
            if isinstance(one, click.Option)
        },
        "arguments": [
            {**(_value(name, one) or {}), "several": one.nargs == -1}
            for one in parameters
            if isinstance(one, click.Argument)
        ],
    }
    if isinstance(command, click.Group):
        subcommands = {one: command.get_command(context, one) for one in command.list_commands(context)}
        described["commands"] = {one: describe(found, one) for one, found in subcommands.items() if found is not None}
    return described


def _value(command: str, parameter: click.Parameter) -> Mapping[str, Any] | None:
    """Return the description of a parameter's value; None for a flag."""
    if isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count):
        return None
    choices = _choices(command, parameter)
    if choices:
        return {"kind": "choices", "choices": choices}
    kind = _kind(command, parameter)
    return {"kind": kind, "states": _STATES.get(command, ())} if kind == "ids" else {"kind": kind}


def _choices(command: str, parameter: click.Parameter) -> list[str]:
    if isinstance(parameter.type, click.Choice):
        return list(parameter.type.choices)
    setting = _SETTINGS.get(parameter.opts[-1]) if command == "serve" else None
    return list(setting.parse.words) if setting is not None and isinstance(setting.parse, OneOf) else []


def _kind(command: str, parameter: click.Parameter) -> str:
    name = parameter.opts[-1]
    if name in ("command", "--health-check"):
        return "file"
    if name in ("--storage", "--from", "--to"):
        return "storage"
    if command == "serve" and name in _SETTINGS:
        return "dir" if name == "--artifacts" else "file" if _SETTINGS[name].parse is readable_file else "text"
    return _KINDS.get(str(parameter.metavar), "text")


def _first_sentence(text: str) -> str:
    """Return the first sentence of a help, without anything that is special in the script of a shell."""
    return re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def table() -> str:
    """Return the content of `commands.json`."""
    return json.dumps(describe(composerd), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
