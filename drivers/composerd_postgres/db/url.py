"""What a storage URL says: which database, and how the driver is to use it. No I/O."""

import re
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

import msgspec
import psycopg2
from psycopg2.extensions import parse_dsn

from composerd.errors import StorageURLError
from composerd.units import parse_duration


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a URL."""

    dsn: str
    """What libpq is told: the URL without our own options."""
    place: str
    """Where the database is, for people, without secrets."""
    schema: str = "composerd"
    connections: int = 10
    """How many are open at most; the one that listens comes on top."""
    time_limit: float = 30.0
    """How long one statement, or the wait for a connection, may take, in seconds."""
    connect_timeout: float = 5.0
    """How long opening a connection may take, in seconds."""
    listen: bool = True
    """Whether notifications reach a connection of ours: not through a pooler in transaction mode."""
    poll: float = 1.0
    """How often to look for what other servers did where notifications do not arrive, in seconds."""
    session: bool = True
    """Whether a connection of ours is one session of the database: not through a pooler in transaction mode."""


def parse(url: str) -> Options:
    """Read a URL. Raises `StorageURLError`, naming the option."""
    parts = _parts(url)
    ours: dict[str, str] = {}
    libpq: list[tuple[str, str]] = []
    query = parts.query.replace("+", "%2B")  # to libpq a plus is a plus
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
        raise StorageURLError(f"the storage URL is not one of PostgreSQL's: {str(exc).strip()}") from None
    if "," in known.get("hostaddr", known.get("host", "")) and "target_session_attrs" not in known:
        dsn += "&target_session_attrs=read-write"  # a standby is of no use, and would be taken as soon as the primary is away
    pooler = _yes_or_no("pooler", ours["pooler"]) if "pooler" in ours else False
    return Options(
        dsn=dsn,
        place=_place(known),
        schema=_schema(ours.get("schema", "composerd")),
        connections=_connections(ours.get("connections", "10")),
        time_limit=_time("time_limit", ours.get("time_limit", "30s")),
        connect_timeout=_connect_timeout(known.get("connect_timeout", "5")),
        listen=not pooler,
        poll=_time("poll", ours.get("poll", "1s")),
        session=not pooler,
    )


def _parts(url: str) -> SplitResult:
    """The parts of a URL; what is wrong with it is said without showing any of it, which may be of a password."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise StorageURLError(f"the storage URL is none: {exc}") from None
    if not url.partition(":")[2].startswith("//"):
        raise StorageURLError(
            "the storage URL has to begin with postgresql://; without a host it is postgresql:///database"
        )
    if not _LOCATION.fullmatch(parts.netloc) or "@" in parts.path or parts.fragment:
        raise StorageURLError(
            "the storage URL has to be like postgresql://user:password@host:5432/database; in a user's name or password "
            "@ is written %40, : %3A, / %2F, ? %3F, # %23"
        )
    return parts


_HOST = r"(\[[^]@]*\]|[^@:\[\],]*)(:[0-9]*)?"

_LOCATION = re.compile(rf"([^@:]*(:[^@:]*)?@)?{_HOST}(,{_HOST})*")
"""User, password, and hosts with their ports."""

_OURS = frozenset({"schema", "connections", "time_limit", "pooler", "poll"})

_DEFAULTS = (
    ("application_name", "composerd"),
    # A peer that vanished is noticed within half a minute also where nothing of ours is under way.
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "20000"),
)


def _place(known: dict[str, str]) -> str:
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
        raise StorageURLError(f"schema: {text!r} is not up to 40 small letters, digits and underscores")
    return text


def _connections(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1000:
        raise StorageURLError(f"connections: {text!r} is not a number from 1 to 1000")
    return int(text)


def _time(name: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as exc:
        raise StorageURLError(f"{name}: {exc}") from None
    if seconds <= 0:
        raise StorageURLError(f"{name}: it has to be longer than nothing")
    return seconds


def _connect_timeout(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) == 0:
        raise StorageURLError(f"connect_timeout: {text!r} is not a number of seconds")
    return float(text)


def _yes_or_no(name: str, text: str) -> bool:
    if text not in ("yes", "no"):
        raise StorageURLError(f"{name}: {text!r} is neither yes nor no")
    return text == "yes"
