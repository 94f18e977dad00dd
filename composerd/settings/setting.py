"""One setting: its name, its parser, its help and its default."""

from collections.abc import Callable
from typing import Any

import msgspec

from composerd.settings.environment import PREFIX
from composerd.settings.values import switch


class Setting(msgspec.Struct, frozen=True):
    """One setting: its name, and how a value is written on the command line, in the environment and in the file."""

    name: str
    parse: Callable[[str], Any]
    """Turns text into a value. Raises `ValueError` with a message that says what is wrong."""
    help: str
    default: str | None = None
    """The default as text, or None if the setting has no value by default."""
    without: str = "none"
    """Shown as the default of a setting that has no value by default."""
    repeatable: bool = False
    may_be_empty: bool = False
    """True if an empty list is a valid value of a repeatable setting."""

    @property
    def is_flag(self) -> bool:
        """True if the option has no value on the command line: it switches something on."""
        return self.parse is switch

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.name.upper()

    @property
    def shown_default(self) -> str:
        """Its default as the help shows it."""
        return self.without if self.default is None else self.default

    @property
    def default_value(self) -> Any:
        """Its value when it is set nowhere."""
        if self.default is None:
            return () if self.repeatable else None
        value = self.parse(self.default)
        return (value,) if self.repeatable else value
