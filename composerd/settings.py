"""The settings of `composerd serve`: one table of names, parsers, help and defaults, and the code that reads them.

A setting comes from, strongest first: the command line, the environment, a TOML file, its default.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from composerd.units import parse_duration, parse_size

CLIENT_VARIABLES = frozenset({"COMPOSERD_SERVER", "COMPOSERD_CA_FILE", "COMPOSERD_CERT_FILE", "COMPOSERD_KEY_FILE"})
"""Environment variables that belong to the client commands, not to the server."""

PREFIX = "COMPOSERD_"

WORKER_BASE = "/api/worker/v1"
"""The base path of the worker API, unless `worker_base_path` sets another."""

COMPOSER_BASE = "/api/composer/v1"
"""The base path of the composer API."""

MAX_DURATION = 3650 * 86400.0
"""The longest duration that a setting or a job can have, in seconds: ten years."""

TCP_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]/]*)):(?P<port>[0-9]{1,5})")


class SettingsError(Exception):
    """A setting is unknown or has an invalid value; the message is one sentence that names it and its origin."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a server. Durations are in seconds, sizes in bytes. `load` fills in the defaults."""

    listen: tuple[str, ...]
    storage: str
    artifacts: str | None
    worker_base_path: str
    request_job_timeout: float
    """0: no limit."""
    heartbeat_timeout: float
    handover_timeout: float
    sweep_interval: float
    max_retries: int
    worker_timeout: float
    retention: float
    """0: jobs are kept until they are deleted."""
    undequeueable_types: tuple[str, ...]
    max_body_size: int
    max_artifact_size: int
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    allowed_domains: tuple[str, ...]
    """Empty: certificates of all domains are accepted."""
    max_connections: int
    max_waits: int
    log_level: str
    log_format: Literal["text", "json"]
    drain_timeout: float
    processes: int


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
    """Tells whether an empty list is a valid value of a repeatable setting."""

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


def _duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds > MAX_DURATION:
        raise ValueError(f"{text!r} is longer than ten years")
    return seconds


def _positive_duration(text: str) -> float:
    seconds = _duration(text)
    if seconds <= 0:
        raise ValueError("must be greater than 0")
    return seconds


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return parse


def _positive_size(text: str) -> int:
    size = parse_size(text)
    if size <= 0:
        raise ValueError("must be greater than 0")
    return size


def _base_path(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text):
        raise ValueError(f"{text!r} is not a path such as {WORKER_BASE}")
    if {".", ".."} & set(text.split("/")):
        raise ValueError(f"{text!r} has a segment . or .., which clients remove from the path")
    if text == COMPOSER_BASE or text.startswith(f"{COMPOSER_BASE}/"):
        raise ValueError(f"{text!r} is the path of the composer API")
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _address(text: str) -> str:
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    match = TCP_ADDRESS.fullmatch(text)
    try:
        if match is not None and int(match["port"]) < 1 << 16:
            (match["host"] or "").encode("idna")  # fails for the same names as the resolver
            return text
    except UnicodeError:
        pass
    raise ValueError(f"{text!r} is not an address: write HOST:PORT, [IPV6]:PORT or unix:/path")


def _file(text: str) -> str:
    try:
        with Path(_text(text)).open("rb"):
            return text
    except OSError as exc:
        raise ValueError(f"{text} cannot be read: {exc.strerror}") from None


def _domain(text: str) -> str:
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", text):
        raise ValueError(f"{text!r} is not a domain such as worker.example.com or *.example.com")
    return text


SETTINGS: Sequence[Setting] = (
    Setting(
        "listen",
        _address,
        "Address to listen on: HOST:PORT, [IPV6]:PORT or unix:/path. Port 0 picks a free port.",
        default="127.0.0.1:8700",
        repeatable=True,
    ),
    Setting(
        "storage",
        _text,
        "Where jobs are stored: a URL whose scheme names the driver, such as fs:/var/lib/composerd.",
        without="fs: in $STATE_DIRECTORY or your data directory",
    ),
    Setting(
        "artifacts",
        _text,
        "Where uploaded files are stored: a directory, the URL of an artifact store, or `none`.",
        without="what the driver offers, else none",
    ),
    Setting("worker_base_path", _base_path, "Base path of the worker API.", default=WORKER_BASE),
    Setting(
        "request_job_timeout",
        _duration,
        "How long a worker's request for a job may wait; 0: no limit.",
        default="0",
    ),
    Setting(
        "heartbeat_timeout",
        _positive_duration,
        "A job is taken back from a worker that has been silent for this long.",
        default="120s",
    ),
    Setting(
        "handover_timeout",
        _positive_duration,
        "How long a worker that promised to confirm a job has for the confirmation.",
        default="10s",
    ),
    Setting("sweep_interval", _positive_duration, "How often expired leases and retention are checked.", default="5s"),
    Setting(
        "max_retries",
        _number(0, 100),
        "How many times a job is tried again after its worker is lost, unless the job sets its own number; 0 to 100.",
        default="2",
    ),
    Setting(
        "worker_timeout",
        _positive_duration,
        "A worker is removed from the list of workers when it has been silent for this long.",
        default="1h",
    ),
    Setting(
        "retention",
        _duration,
        "How long an ended job and its artifacts are kept, unless the job sets its own retention; 0: until deleted.",
        default="14d",
    ),
    Setting(
        "undequeueable_types",
        _text,
        "Job type that workers may not request.",
        default="manifest-id-only",
        repeatable=True,
        may_be_empty=True,
    ),
    Setting("max_body_size", _positive_size, "Maximum size of a request body.", default="32MiB"),
    Setting("max_artifact_size", _positive_size, "Maximum size of an artifact.", default="64GiB"),
    Setting(
        "tls_cert",
        _file,
        "PEM file with the server's certificate; turns on TLS on the TCP addresses. Read again on SIGHUP.",
    ),
    Setting("tls_key", _file, "PEM file with the private key of that certificate."),
    Setting(
        "tls_client_ca",
        _file,
        "Require TLS clients to present a certificate signed by a CA in this PEM file.",
    ),
    Setting(
        "allowed_domains",
        _domain,
        "With --tls-client-ca: domain, such as *.example.com, that a DNS name of the client's certificate must match.",
        without="any",
        repeatable=True,
    ),
    Setting(
        "max_connections", _number(1, 1_000_000), "Maximum number of open connections; 1 to 1000000.", default="20000"
    ),
    Setting("max_waits", _number(1, 1_000_000), "Maximum number of waiting requests; 1 to 1000000.", default="20000"),
    Setting(
        "log_level",
        _one_of("debug", "info", "warning", "error"),
        "Least severe level to log: debug, info, warning or error.",
        default="info",
    ),
    Setting(
        "log_format",
        _one_of("text", "json"),
        "Format of the log: text, or json for one JSON object a line.",
        default="text",
    ),
    Setting(
        "drain_timeout", _positive_duration, "After SIGTERM, how long to wait for requests in progress.", default="5s"
    ),
    Setting(
        "processes",
        _number(1, 64),
        "Number of server processes, 1 to 64. More than 1 requires a storage that servers can share.",
        default="1",
    ),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}

_NEEDS = (
    ("tls_cert", "tls_key"),
    ("tls_key", "tls_cert"),
    ("tls_client_ca", "tls_cert"),
    ("allowed_domains", "tls_client_ca"),
)
"""Pairs of settings: the first requires the second."""


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
    values.setdefault("storage", default_storage(environ))
    for setting in SETTINGS:
        values.setdefault(setting.name, setting.default_value)
    return Settings(**values)


def default_storage(environ: Mapping[str, str]) -> str:
    """Return the storage URL when none is set: in systemd's state directory, or else in the user's data directory."""
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state:
        return f"fs:{state}"
    data = environ.get("XDG_DATA_HOME") or f"{environ.get('HOME') or Path.home()}/.local/share"
    return f"fs:{data}/composerd"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in CLIENT_VARIABLES:
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
            raise SettingsError(f"invalid value for {origin}: {one!r} has characters that are not printable")
    try:
        if setting.repeatable:
            return tuple(setting.parse(one) for one in (value if several else [value]))
        return setting.parse(value)
    except ValueError as exc:
        raise SettingsError(f"invalid value for {origin}: {exc}") from exc
