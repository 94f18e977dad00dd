"""Reading the settings from the command line, the environment and a file, and filling in the defaults."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composerd.settings.environment import PREFIX, is_foreign
from composerd.settings.setting import Setting
from composerd.settings.table import SETTINGS, Settings
from composerd_protocol.units import format_duration


class SettingsError(Exception):
    """A setting is unknown or has an invalid value; the message is one sentence that names it and its origin."""


_BY_NAME = {setting.name: setting for setting in SETTINGS}

_NEEDS = (
    ("tls_cert", "tls_key"),
    ("tls_key", "tls_cert"),
    ("tls_client_ca", "tls_cert"),
    ("allowed_domains", "tls_client_ca"),
    ("tls_identities", "tls_client_ca"),
    ("jwt_keys", "jwt_issuer"),
    ("jwt_keys", "jwt_audience"),
    *((name, "jwt_keys") for name in ("jwt_issuer", "jwt_audience", "jwt_tenant_claim", "jwt_role_claim", "jwt_acl")),
    ("jwt_default_role", "jwt_keys"),
    ("jwt_role_claim", "jwt_role"),
    ("jwt_role", "jwt_role_claim"),
)
"""Pairs of settings: the first requires the second."""

_YEAR = 365 * 86400.0


def load(options: Mapping[str, Any], environ: Mapping[str, str], config: Path | None) -> Settings:
    """Read the settings from the command line, the environment and a configuration file, and fill in the defaults.

    `options` maps names of settings to text, or to a sequence of texts for a repeatable setting. Raises
    `SettingsError`.
    """
    values: dict[str, Any] = {}
    if config is not None:
        values.update(_from_file(config))
    values.update(_from_environment(environ))
    for name, value in options.items():
        values[name] = _parse(_BY_NAME[name], value, _BY_NAME[name].option)
    for name, needed in _NEEDS:
        if name in values and needed not in values:
            raise SettingsError(f"{name} requires {needed}, which is not set")
    if "jwt_keys" in values and not {"jwt_role", "jwt_default_role"} & values.keys():
        raise SettingsError("jwt_keys requires jwt_default_role, or jwt_role_claim and jwt_role, which are not set")
    values.setdefault("storage", default_storage(environ))
    for setting in SETTINGS:
        values.setdefault(setting.name, setting.default_value)
    values["max_retention"] = _max_retention(values["max_retention"], values["retention"])
    settings = Settings(**values)
    if settings.quotas is not None and not settings.identified:
        raise SettingsError(
            "quotas is set, but nobody has an identity, so there are no tenants: set tokens or another source of "
            "identities, or remove it"
        )
    return settings


def _max_retention(given: float | None, retention: float) -> float:
    """Return the longest retention of a job, which is never shorter than the server's own; 0 stands for no limit."""
    if given is None:
        return max(_YEAR, retention) if retention else 0
    if given and not 0 < retention <= given:
        own = format_duration(retention) if retention else "0, which is no limit"
        raise SettingsError(
            f"max_retention ({format_duration(given)}) is shorter than retention ({own}): raise it, or lower retention"
        )
    return given


def default_storage(environ: Mapping[str, str]) -> str:
    """Return the storage URL when none is set: in systemd's state directory, or else in the user's data directory.

    The first entry of $STATE_DIRECTORY counts.
    """
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state:
        return f"fs:{state}"
    data = environ.get("XDG_DATA_HOME") or f"{environ.get('HOME') or Path.home()}/.local/share"
    return f"fs:{data}/composerd"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or is_foreign(variable, environ):
            continue
        name = variable.removeprefix(PREFIX).lower()
        setting = _BY_NAME.get(name)
        if setting is None:
            raise SettingsError(f"the environment variable {variable} is set, but there is no setting {name!r}")
        text = environ[variable]
        values[name] = _parse(setting, text.split() if setting.repeatable else text, f"{variable} in the environment")
    return values


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"cannot read the configuration file {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the configuration file {path} is not valid TOML: {exc}") from exc
    if other := content.keys() - {"composerd"}:
        raise SettingsError(
            f"the configuration file {path} has {min(other)!r} outside of the table [composerd]: move it into the table"
        )
    table = content.get("composerd", {})
    if not isinstance(table, dict):
        raise SettingsError(f"composerd in the configuration file {path} is not a table")
    values: dict[str, Any] = {}
    for name, value in table.items():
        setting = _BY_NAME.get(name)
        if setting is None:
            raise SettingsError(f"the configuration file {path} has {name!r}, but there is no such setting")
        values[name] = _parse(setting, _as_text(value), f"{name} in the configuration file {path}")
    return values


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else value


def _parse(setting: Setting, value: Any, origin: str) -> Any:
    """Return the value of a setting. `origin` says in an error where the text came from."""
    several = isinstance(value, list | tuple)
    if several and not setting.repeatable:
        raise SettingsError(f"invalid value for {origin}: must be a single value, not a list")
    if several and not value and not setting.may_be_empty:
        raise SettingsError(f"invalid value for {origin}: must not be empty")
    for one in value if several else [value]:
        if not isinstance(one, str):
            raise SettingsError(f"invalid value for {origin}: must be a text or a number")
        if not one.isprintable():
            # The value is not shown: the URL of a storage may have a password.
            raise SettingsError(f"invalid value for {origin}: it has characters that are not printable")
    try:
        if setting.repeatable:
            return tuple(setting.parse(one) for one in (value if several else [value]))
        return setting.parse(value)
    except ValueError as exc:
        raise SettingsError(f"invalid value for {origin}: {exc}") from exc
