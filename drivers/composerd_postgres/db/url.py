"""Reads a storage URL: which database it names, and the options of this driver. No I/O."""

import re
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

import msgspec
import psycopg2
from psycopg2.extensions import parse_dsn

from composerd.errors import StorageURLError
from composerd_protocol.units import parse_duration


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options that a storage URL sets."""

    dsn: str
    """The URL without the driver's own options, for libpq."""
    target: str
    """The database and its hosts, for messages. It contains no secrets."""
    schema: str = "composerd"
    connections: int = 10
    """The largest number of open connections; the one that listens for notifications is additional."""
    time_limit: float = 30.0
    """Time in seconds that one statement, or the wait for a connection, may take."""
    connect_timeout: float = 5.0
    """Time in seconds that opening a connection may take."""
    listen: bool = True
    """True if notifications can reach a connection; they do not pass through a pooler in transaction mode."""
    poll: float = 1.0
    """Interval in seconds at which changes of other servers are looked for if notifications do not arrive."""
    session: bool = True
    """True if each connection is one session of the database; it is not behind a pooler in transaction mode."""


def parse(url: str) -> Options:
    """Return the options that a URL sets.

    Raises:
        StorageURLError: The URL is invalid, or an option in it, which the message names. The message shows no password.
    """
    parts = _parts(url)
    ours: dict[str, str] = {}
    libpq: list[tuple[str, str]] = []
    query = parts.query.replace("+", "%2B")  # parse_qsl reads a plus as a space, libpq does not
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in ours:
            raise StorageURLError(f"the option {name} is given twice")
        if name in _OURS:
            ours[name] = value
        else:
            libpq.append((name, value))
    libpq += [(name, value) for name, value in _DEFAULTS if name not in dict(libpq)]
    dsn = f"postgresql://{parts.netloc}{parts.path}?{urlencode(libpq, quote_via=quote)}"
    try:
        known = parse_dsn(dsn)
    except psycopg2.ProgrammingError as exc:
        raise StorageURLError(f"invalid storage URL: {str(exc).strip()}") from None
    if "," in known.get("hostaddr", known.get("host", "")) and "target_session_attrs" not in known:
        dsn += "&target_session_attrs=read-write"  # otherwise a standby would be used while the primary is away
    pooler = _yes_or_no("pooler", ours["pooler"]) if "pooler" in ours else False
    return Options(
        dsn=dsn,
        target=_target(known),
        schema=_schema(ours.get("schema", "composerd")),
        connections=_connections(ours.get("connections", "10")),
        time_limit=_time("time_limit", ours.get("time_limit", "30s")),
        connect_timeout=_connect_timeout(known.get("connect_timeout", "5")),
        listen=not pooler,
        poll=_time("poll", ours.get("poll", "1s")),
        session=not pooler,
    )


def _parts(url: str) -> SplitResult:
    """Split a URL. Messages show nothing of it, because any part may be a piece of a password that is not escaped."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise StorageURLError(f"invalid storage URL: {exc}") from None
    if not url.partition(":")[2].startswith("//"):
        raise StorageURLError(
            "invalid storage URL: it must begin with postgresql://; without a host write postgresql:///database"
        )
    if not _LOCATION.fullmatch(parts.netloc) or "@" in parts.path or parts.fragment:
        raise StorageURLError(
            "invalid storage URL: it must look like postgresql://user:password@host:5432/database; in the user's name "
            "and the password write @ as %40, : as %3A, / as %2F, ? as %3F and # as %23"
        )
    return parts


_HOST = r"(\[[^]@]*\]|[^@:\[\],]*)(:[0-9]*)?"

_LOCATION = re.compile(rf"([^@:]*(:[^@:]*)?@)?{_HOST}(,{_HOST})*")
"""The user, the password, and the hosts with their ports."""

_OURS = frozenset({"schema", "connections", "time_limit", "pooler", "poll"})

_DEFAULTS = (
    ("application_name", "composerd"),
    # A peer that has vanished is noticed within half a minute, even on a connection that nobody uses.
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "20000"),
)


def _target(known: dict[str, str]) -> str:
    hosts = (known.get("host") or known.get("hostaddr") or "the local socket").split(",")
    ports = known.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    at = [
        f"{host}:{port}" if port and not host.startswith("/") else host
        for host, port in zip(hosts, ports, strict=False)
    ]
    return f"{known.get('dbname', 'the default database')} at {', '.join(at)}"


def _schema(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", text) or text.startswith("pg_"):
        raise StorageURLError(
            "schema must be up to 40 lowercase letters, digits and underscores, not beginning with a digit or pg_: "
            f"{text!r}"
        )
    return text


def _connections(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1000:
        raise StorageURLError(f"connections must be a number from 1 to 1000: {text!r}")
    return int(text)


def _time(name: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as exc:
        raise StorageURLError(f"{name}: {exc}") from None
    if seconds <= 0:
        raise StorageURLError(f"{name} must be greater than 0")
    return seconds


def _connect_timeout(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) == 0:
        raise StorageURLError(f"connect_timeout must be a number of seconds from 1 to 9999: {text!r}")
    return float(text)


def _yes_or_no(name: str, text: str) -> bool:
    if text not in ("yes", "no"):
        raise StorageURLError(f"{name} must be yes or no: {text!r}")
    return text == "yes"
