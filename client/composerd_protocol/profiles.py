"""The profiles of a user: the servers that the commands are for, and who the user is there."""

import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from composerd_protocol.options import OAUTH_OPTIONS, PROFILE_NAME, SERVER_OPTIONS

DEFAULT_PROFILE = "default"
"""The name of the profile that is used if none is named."""

_FLAG = "insecure_http"
"""The only key whose value is true or false."""

_KEYS = {option.name for option in SERVER_OPTIONS} - {"profile"} | {"token", "oauth"}

_OAUTH_KEYS = {option.name for option in OAUTH_OPTIONS} | {"client_secret"}

_FILE = "_file"
"""The end of keys whose values are paths; a relative one begins in the directory of the profiles."""

_LARGEST = 1024**2

_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")

_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*[.=]")


class Profile(NamedTuple):
    """A profile. It counts only for its own server, so that no other gets what it says about the user."""

    name: str
    path: Path
    """The file that has it."""
    values: Mapping[str, Any]
    """The values of options by their names, and `oauth` with those of a token server."""


def profiles_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the path of the file with the profiles; None for a user without a home."""
    base = environ.get("XDG_CONFIG_HOME", "")
    try:
        directory = Path(base) if base.startswith("/") else Path(environ.get("HOME") or Path.home()) / ".config"
    except RuntimeError:
        return None
    return directory / "composerd" / "config.toml"


def find_profile(name: str | None, environ: Mapping[str, str] = os.environ) -> Profile | None:
    """Return a profile by its name, or without one the default profile, or None if there is none.

    An empty name stands for no profile. Raises `ValueError` if the file cannot be used, or has no profile of this name.
    """
    path = None if name == "" else profiles_file(environ)
    if path is None:
        return None
    text = profiles_text(path, named=name is not None)
    profiles = {} if text is None else parse_profiles(path, text)
    found = profiles.get(DEFAULT_PROFILE if name is None else name)
    if found is None and name is not None:
        others = f"; there are: {', '.join(sorted(profiles))}" if profiles else ""
        raise ValueError(
            f"{path} has no profile {name!r}: `composerd login --profile {name}` makes one{others}"
            if text is not None
            else f"there is no profile {name!r}: `composerd login --profile {name}` makes one in {path}"
        )
    return found


def profile_names() -> list[str]:
    """Return the names of the user's profiles; none if the file cannot be used."""
    path = profiles_file()
    try:
        text = None if path is None else profiles_text(path, named=False)
        return [] if path is None or text is None else sorted(parse_profiles(path, text))
    except ValueError:
        return []


def profiles_text(path: Path, *, named: bool = True) -> str | None:
    """Return the text of the file with the profiles; None if there is none.

    Unless a profile was `named`, a file that cannot be looked for is none. Raises `ValueError` if it cannot be used.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(_LARGEST + 1)
        text = data.decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as exc:
        if not named and not os.path.lexists(path):  # of a service that may not look into homes
            return None
        raise ValueError(f"{path} cannot be read: {exc.strerror}") from exc
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text") from None
    if len(data) > _LARGEST:
        raise ValueError(f"{path} has more than {_LARGEST} bytes")
    check_private(path, found, has_secret=re.search(r"""["']?\b(token|client_secret)["']?\s*=""", text) is not None)
    return text


def parse_profiles(path: Path, text: str) -> dict[str, Profile]:
    """Return the profiles of a file by name. Raises `ValueError`, which names the file and the line."""
    import tomllib  # noqa: PLC0415  # most commands have no profile

    file = _File(path, text)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise file.wrong((), "", f"it is not TOML: {exc}") from None
    file.check_keys((), content, {"profiles"})
    profiles = content.get("profiles", {})
    if not isinstance(profiles, dict):
        raise file.wrong((), "profiles", f"profiles is not a table: write [profiles.{DEFAULT_PROFILE}]")
    return {name: _profile(file, name, table) for name, table in profiles.items()}


def check_private(path: Path, found: os.stat_result, *, has_secret: bool) -> None:
    """Raise `ValueError` if others may read a secret in a file, or may change the file."""
    if found.st_uid not in (os.geteuid(), 0):
        raise ValueError(f"{path} belongs to another user, who can change it: make one of your own")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"other users may write to {path}: forbid that with `chmod go-w {path}`")
    if has_secret and found.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ValueError(f"other users may read the secrets in {path}: forbid that with `chmod 600 {path}`")


class _File(NamedTuple):
    path: Path
    text: str

    def check_keys(self, where: tuple[str, ...], table: Mapping[str, Any], known: Collection[str]) -> None:
        """Raise `ValueError` if a table has a key that is not known."""
        for key in table:
            if key not in known:
                name = ".".join((*where, key))
                raise self.wrong(where, key, f"there is no key {name}; there are {', '.join(sorted(known))}")

    def wrong(self, where: tuple[str, ...], key: str, reason: str) -> ValueError:
        """Return the error for a key in a table, or without a key for the table."""
        line = self._line(where, key)
        return ValueError(f"{self.path}{f', line {line}' if line else ''}: {reason}")

    def _line(self, where: tuple[str, ...], key: str) -> int:
        """Return the number of the line of a key in a table, or of the table; 0 if it is not found."""
        table: tuple[str, ...] = ()
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
                if table == ((*where, key) if key else where):
                    return number
            elif table == where and key and (found := _KEY.match(line)) and found[1].strip("\"'") == key:
                return number
        return 0


def _profile(file: _File, name: str, table: object) -> Profile:
    where = ("profiles", name)
    if not isinstance(table, dict):
        raise file.wrong(("profiles",), name, f"profiles.{name} is not a table: write [profiles.{name}]")
    if not PROFILE_NAME.fullmatch(name):
        raise file.wrong(where, "", f"{name[:64]!r} is not the name of a profile: use letters, digits, - and _")
    file.check_keys(where, table, _KEYS)
    oauth = table.get("oauth", {})
    if not isinstance(oauth, dict):
        raise file.wrong(where, "oauth", f"oauth is not a table: write [profiles.{name}.oauth]")
    of_oauth = (*where, "oauth")
    if "refresh_token" in oauth:
        advice = "write it into a file, and name that as refresh_token_file: the token server may replace it"
        raise file.wrong(of_oauth, "refresh_token", f"a refresh token cannot be here: {advice}")
    file.check_keys(of_oauth, oauth, _OAUTH_KEYS)
    _check_types(file, where, {key: value for key, value in table.items() if key != "oauth"})
    _check_types(file, of_oauth, oauth)
    if not table.get("server"):
        raise file.wrong(where, "", f'the profile {name!r} names no server: write server = "URL"')
    several = [key for key in ("token", "token_file", "oauth") if key in table]
    if len(several) > 1:
        raise file.wrong(where, several[0], f"{' and '.join(several)} are alternatives: leave all but one out")
    if "oauth" in table and not oauth.get("token_url"):
        raise file.wrong(of_oauth, "", "oauth needs the URL of the token endpoint as token_url")
    values = {**_with_paths(file.path, table), **({"oauth": _with_paths(file.path, oauth)} if oauth else {})}
    return Profile(name, file.path, values)


def _check_types(file: _File, where: tuple[str, ...], table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        kind, name = (bool, "true or false") if key == _FLAG else (str, "text in quotes")
        if not isinstance(value, kind):
            raise file.wrong(where, key, f"{key} must be {name}")


def _with_paths(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table whose files are absolute paths."""
    return {
        key: str(path.parent / Path(value).expanduser()) if key.endswith(_FILE) else value
        for key, value in table.items()
    }
