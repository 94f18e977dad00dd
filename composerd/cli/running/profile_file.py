"""The file with the user's profiles, of which one is replaced or removed; everything else in it stays as it is."""

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from composerd.cli.errors import Failure
from composerd_client.private_files import write_private
from composerd_protocol.exit_codes import WRONG
from composerd_protocol.profiles import Profile, parse_profiles, profiles_file, profiles_text

_ANY_HEADER = re.compile(r"^\s*\[", re.MULTILINE)

_SUFFIXES = {"token": ".token", "client_secret": ".client-secret"}
"""The ends of the names of files with secrets, which begin with the name of the profile."""


class ProfileFile:
    """The file with the user's profiles, which need not exist. Raises `ValueError` if it cannot be used."""

    def __init__(self) -> None:
        path = profiles_file()
        if path is None:
            raise Failure("there is no directory for profiles: set HOME or XDG_CONFIG_HOME", WRONG)
        self.path: Path = path
        self._text = profiles_text(path) or ""
        self.profiles: Mapping[str, Profile] = parse_profiles(path, self._text)

    def store(self, name: str, values: Mapping[str, Any], secret: tuple[str, str] | None) -> None:
        """Store a profile, and a secret with its key, in a file beside it, instead of those that are there.

        Raises `OSError`.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = self._secret_files(name)
        if secret is not None:
            key, text = secret
            file = files.pop(key)
            write_private(file, text + "\n")
            if key == "token":
                values = {**values, "token_file": file.name}
            else:
                values = {**values, "oauth": {**values["oauth"], f"{key}_file": file.name}}
        self._write(name, f"{self._without(name)}{_section(name, values)}")
        for unused in files.values():
            unused.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a profile and its secrets. Raises `OSError`."""
        self._write(name, self._without(name))
        for file in self._secret_files(name).values():
            file.unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        try:
            found = parse_profiles(self.path, text)
        except ValueError:
            found = {}
        others = {one: profile for one, profile in self.profiles.items() if one != name}
        if {one: profile for one, profile in found.items() if one != name} != others:
            raise Failure(f"{self.path} has an unusual form: change the profile {name!r} there by hand", WRONG)
        write_private(self.path.resolve(), text)
        self._text, self.profiles = text, found

    def _without(self, name: str) -> str:
        """Return the text of the file without the tables of a profile."""
        own = re.compile(rf"^\s*\[\s*profiles\s*\.\s*[\"']?{re.escape(name)}[\"']?\s*(?:\.[^\]]*)?\]", re.MULTILINE)
        begins = [header.start() for header in _ANY_HEADER.finditer(self._text)]
        kept = self._text[: begins[0]] if begins else self._text
        for begin, end in pairwise([*begins, len(self._text)]):
            if not own.match(self._text, begin):
                kept += self._text[begin:end]
        return f"{kept.rstrip()}\n\n" if kept.strip() else ""

    def _secret_files(self, name: str) -> dict[str, Path]:
        """Return the paths of the files with secrets of a profile, by their keys."""
        return {key: self.path.parent / f"{name}{suffix}" for key, suffix in _SUFFIXES.items()}


def _section(name: str, values: Mapping[str, Any]) -> str:
    """Return the tables of a profile as TOML, in which strings are those of JSON."""
    lines = [f"[profiles.{name}]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if key != "oauth"]
    if "oauth" in values:
        lines += ["", f"[profiles.{name}.oauth]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in values["oauth"].items()]
    return "\n".join(lines) + "\n"
