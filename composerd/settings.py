"""The settings of `composerd serve`: one table, read from options, the environment, a TOML file and defaults, strongest first."""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from composerd.units import parse_duration, parse_size

CLIENT_VARIABLES = frozenset({"COMPOSERD_SERVER", "COMPOSERD_CA_FILE", "COMPOSERD_CERT_FILE", "COMPOSERD_KEY_FILE"})
"""Variables of the environment that are not the server's."""

PREFIX = "COMPOSERD_"

LONGEST = 3650 * 86400.0
"""The longest duration that a setting or a job can have: ten years, in seconds."""

TCP_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]/]*)):(?P<port>[0-9]{1,5})")


class SettingsError(Exception):
    """A setting is unknown or has a bad value; the message is one sentence that names it and where it came from."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is told; durations in seconds, sizes in bytes."""

    listen: tuple[str, ...] = ("127.0.0.1:8700",)
    storage: str = ""
    artifacts: str | None = None
    worker_base_path: str = "/api/worker/v1"
    request_job_timeout: float = 0.0
    """0: no deadline."""
    heartbeat_timeout: float = 120.0
    handover_timeout: float = 10.0
    sweep_interval: float = 5.0
    max_retries: int = 2
    worker_timeout: float = 3600.0
    retention: float = 14 * 86400.0
    """0: never removed."""
    undequeueable_types: tuple[str, ...] = ("manifest-id-only",)
    max_body_size: int = 32 * 1024**2
    max_artifact_size: int = 64 * 1024**3
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    allowed_domains: tuple[str, ...] = ()
    max_connections: int = 20000
    max_waits: int = 20000
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    drain_timeout: float = 5.0
    processes: int = 1


class Setting(msgspec.Struct, frozen=True):
    """How one setting is written, wherever it is written."""

    name: str
    parse: Callable[[str], Any]
    """From text. Raises `ValueError` with a sentence."""
    help: str
    default: str = ""
    """The default, as one would write it."""
    repeatable: bool = False
    may_be_empty: bool = False
    """A repeatable one: whether it may be said to have no value at all."""

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.name.upper()


def _duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds > LONGEST:
        raise ValueError(f"{text!r} is longer than ten years")
    return seconds


def _positive_duration(text: str) -> float:
    seconds = _duration(text)
    if seconds <= 0:
        raise ValueError("it has to be longer than nothing")
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
        raise ValueError("it has to be more than nothing")
    return size


def _base_path(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text):
        raise ValueError(f"{text!r} is not a path such as /api/worker/v1")
    if {".", ".."} & set(text.split("/")):
        raise ValueError(f"{text!r} has a part that clients leave out: . or ..")
    if text == "/api/composer/v1" or text.startswith("/api/composer/v1/"):
        raise ValueError(f"{text!r} is where the composer API is")
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("it is empty")
    return text


def _address(text: str) -> str:
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    match = TCP_ADDRESS.fullmatch(text)
    try:
        if match is not None and int(match["port"]) < 1 << 16:
            (match["host"] or "").encode("idna")  # as the resolver will
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
        "Where to listen: HOST:PORT, [IPV6]:PORT or unix:/path; port 0 picks one.",
        "127.0.0.1:8700",
        repeatable=True,
    ),
    Setting(
        "storage",
        _text,
        "Where jobs are stored: a URL whose scheme names the driver, such as fs:/var/lib/composerd.",
        "fs: in $STATE_DIRECTORY or your data directory",
    ),
    Setting(
        "artifacts",
        _text,
        "A directory for the files that workers upload, the URL of an artifact store, or `none`.",
        "what the driver offers, else none",
    ),
    Setting("worker_base_path", _base_path, "Where the worker API is.", "/api/worker/v1"),
    Setting(
        "request_job_timeout",
        _duration,
        "How long a worker's question for a job waits; 0: no deadline.",
        "0",
    ),
    Setting("heartbeat_timeout", _positive_duration, "A worker that is silent for that long has lost its job.", "120s"),
    Setting(
        "handover_timeout",
        _positive_duration,
        "How long a worker that promised to confirm a job may take for it.",
        "10s",
    ),
    Setting("sweep_interval", _positive_duration, "How often leases and retention are looked at.", "5s"),
    Setting("max_retries", _number(0, 100), "How often a lost worker is forgiven, for jobs that do not say.", "2"),
    Setting(
        "worker_timeout", _positive_duration, "A worker not heard of for that long is dropped from the list.", "1h"
    ),
    Setting("retention", _duration, "How long an ended job and its artifacts are kept; 0: for ever.", "14d"),
    Setting(
        "undequeueable_types",
        _text,
        "A type of job that workers may not take.",
        "manifest-id-only",
        repeatable=True,
        may_be_empty=True,
    ),
    Setting("max_body_size", _positive_size, "The largest request body.", "32MiB"),
    Setting("max_artifact_size", _positive_size, "The largest artifact.", "64GiB"),
    Setting(
        "tls_cert", _file, "The server's certificate, PEM: TLS on the TCP addresses; SIGHUP reads it anew.", "none"
    ),
    Setting("tls_key", _file, "The key of that certificate, PEM.", "none"),
    Setting(
        "tls_client_ca", _file, "Who comes by TLS has to show a certificate that one of this file, PEM, signed.", "none"
    ),
    Setting(
        "allowed_domains",
        _domain,
        "With a client CA: one of the certificate's names has to match, such as *.example.com.",
        "any",
        repeatable=True,
    ),
    Setting("max_connections", _number(1, 1_000_000), "How many connections may be open.", "20000"),
    Setting("max_waits", _number(1, 1_000_000), "How many requests may wait.", "20000"),
    Setting("log_level", _one_of("debug", "info", "warning", "error"), "What is logged.", "info"),
    Setting("log_format", _one_of("text", "json"), "How it is logged.", "text"),
    Setting("drain_timeout", _positive_duration, "How long SIGTERM waits for requests in progress.", "5s"),
    Setting(
        "processes", _number(1, 64), "How many processes serve; more than 1 needs a storage that servers share.", "1"
    ),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}

_NEEDS = (
    ("tls_cert", "tls_key"),
    ("tls_key", "tls_cert"),
    ("tls_client_ca", "tls_cert"),
    ("allowed_domains", "tls_client_ca"),
)


def load(options: Mapping[str, Any], environ: Mapping[str, str], config: Path | None) -> Settings:
    """Read the settings.

    `options` are those given on the command line, by setting name: a text, or several for a repeatable one. Raises
    `SettingsError`.
    """
    values: dict[str, Any] = {}
    if config is not None:
        values.update(_from_file(config))
    values.update(_from_environment(environ))
    for name, value in options.items():
        values[name] = _parse(_BY_NAME[name], value, f"the option {_BY_NAME[name].option}")
    for name, needed in _NEEDS:
        if name in values and needed not in values:
            raise SettingsError(f"{name} needs {needed}, which is not set")
    values.setdefault("storage", default_storage(environ))
    return Settings(**values)


def default_storage(environ: Mapping[str, str]) -> str:
    """Where jobs are stored if nobody says: systemd's state directory, else the user's data directory."""
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
            raise SettingsError(f"the environment has {variable}, but there is no setting {name}")
        text = environ[variable]
        values[name] = _parse(setting, text.split() if setting.repeatable else text, f"{variable} in the environment")
    return values


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"the configuration {path} cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the configuration {path} is not TOML: {exc}") from exc
    if other := content.keys() - {"composerd"}:
        raise SettingsError(f"the configuration {path} has {min(other)!r}; settings are in the table [composerd]")
    table = content.get("composerd", {})
    if not isinstance(table, dict):
        raise SettingsError(f"the configuration {path} has a composerd that is not a table")
    values: dict[str, Any] = {}
    for name, value in table.items():
        setting = _BY_NAME.get(name)
        if setting is None:
            raise SettingsError(f"the configuration {path} has {name!r}, but there is no such setting")
        values[name] = _parse(setting, _as_text(value), f"{name} in the configuration {path}")
    return values


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else value


def _parse(setting: Setting, value: Any, where: str) -> Any:
    several = isinstance(value, list | tuple)
    if several and not setting.repeatable:
        raise SettingsError(f"{where} has a bad value: one is expected, not a list")
    if several and not value and not setting.may_be_empty:
        raise SettingsError(f"{where} has a bad value: it is empty")
    for one in value if several else [value]:
        if not isinstance(one, str):
            raise SettingsError(f"{where} has a bad value: a text or a number is expected")
        if not one.isprintable():
            raise SettingsError(f"{where} has a bad value: {one!r} has what is no text")
    try:
        if setting.repeatable:
            return tuple(setting.parse(one) for one in (value if several else [value]))
        return setting.parse(value)
    except ValueError as exc:
        raise SettingsError(f"{where} has a bad value: {exc}") from exc
