"""The place of an unfinished word in a command line, according to the description of the commands."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).with_name("commands.json")
"""The description of the commands."""

Command = Mapping[str, Any]
"""The description of one command: its help, options, arguments and subcommands."""


class Place(NamedTuple):
    """The unfinished word, and what may stand there."""

    command: Command
    word: str
    """The part of the word that is completed."""
    before: str
    """The part of the word before that, such as `--state=`."""
    value: Mapping[str, Any] | None
    """The description of the value that is completed; None for the name of an option or a subcommand."""
    given: Mapping[str, str]
    """The options of the command that are there already, with their values."""


def read_table() -> Command:
    """Return the description of `composerd`."""
    table: Command = json.loads(TABLE.read_bytes())
    return table


def find_place(program: Command, words: Sequence[str], word: str) -> Place | None:
    """Return what is completed at the end of a command line; None where nothing can be completed.

    `words` are those between the name of the program and the unfinished `word`.
    """
    line = _Line(program)
    return line.place(word) if all(line.read(one) for one in words) else None


class _Line:
    """The words of a command line that were read so far."""

    def __init__(self, program: Command) -> None:
        self._command = program
        self._given: dict[str, str] = {}
        self._arguments = 0
        """Number of words that are arguments."""
        self._pending = ""
        """The option that gets the next word as its value."""
        self._options_over = False

    def read(self, word: str) -> bool:
        """Read one word. Return False if it names a subcommand that does not exist."""
        name, equals, value = word.partition("=")
        if self._pending:
            self._given[self._pending] = word
            self._pending = ""
        elif self._options_over or word == "-" or not word.startswith("-"):
            return self._read_argument(word)
        elif word == "--":
            self._options_over = True
        elif name in self._command["options"]:
            self._given[name] = value
            self._pending = "" if equals or self._command["options"][name]["value"] is None else name
        return True

    def _read_argument(self, word: str) -> bool:
        subcommands = self._command.get("commands")
        if subcommands is None:
            self._arguments += 1
        elif word in subcommands:
            self._command, self._given = subcommands[word], {}
        return subcommands is None or word in subcommands

    def place(self, word: str) -> Place | None:
        """Return what is completed in the next word."""
        options, arguments = self._command["options"], self._command["arguments"]
        value, before = None, ""
        if self._pending:
            value = options[self._pending]["value"]
        elif word.startswith("-") and not self._options_over:
            name, equals, rest = word.partition("=")
            if equals:
                value, before, word = options.get(name, {}).get("value"), f"{name}=", rest
                if value is None:
                    return None
        elif "commands" not in self._command:
            if self._arguments >= len(arguments) and not (arguments and arguments[-1]["several"]):
                return None
            value = arguments[min(self._arguments, len(arguments) - 1)]
        return Place(self._command, word, before, value, self._given)
