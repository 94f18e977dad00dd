"""The lines of a tokens file.

One line is one token, with fields `name=value` in any order. Later lines with its id and without a hash change it:

    name=builder-7 role=worker tenant=acme created=2026-01-31T12:00:00Z expires=never id=4vX… hash=sha256:…:…
    name=builder-7 id=4vX… revoked=2026-02-01T08:30:00Z

So every change of the file is a line at its end, which neither harms other lines if the machine fails meanwhile, nor
makes another file of it. The part behind a last line feed that is not a whole line counts for nothing.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from composerd.identity.roles import Role

MOST_TOKENS = 100_000
"""The most tokens of a file."""

_SALT = 16
"""Bytes of a salt."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,99}")
_ID = re.compile(r"[A-Za-z0-9]{8}")
_HASH = re.compile(rf"sha256:([0-9a-f]{{{2 * _SALT}}}):([0-9a-f]{{64}})")

_OF_TOKENS = frozenset({"name", "role", "tenant", "created", "expires", "id", "hash"})
_OF_CHANGES = frozenset({"name", "id", "revoked", "expires"})

NEVER = "never"

_YEAR_10000 = 253402300800.0
"""The first time, in seconds since 1970, that `format_time` cannot write."""


class TokenEntry(msgspec.Struct, frozen=True, gc=False):
    """A token as the file describes it. Times are in seconds since 1970."""

    id: str
    name: str
    role: Role
    tenant: str | None
    created: float
    expires: float | None
    salt: bytes
    digest: bytes
    revoked: float | None = None

    def is_text(self, text: str) -> bool:
        """Return True if this is the whole token, in a time that tells nothing about it."""
        return hmac.compare_digest(self.digest, _digest(self.salt, text))

    def state(self, now: float) -> str:
        """Return `valid`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.expires is None or now < self.expires else "expired"

    def refusal(self, now: float) -> str | None:
        """Return why the token is not taken any more, if that is so."""
        state = self.state(now)
        if state == "valid":
            return None
        return f"the token of {self.name} {'has expired' if state == 'expired' else 'is revoked'}"

    def line(self) -> str:
        """Return the line of the file."""
        tenant = "" if self.tenant is None else f" tenant={self.tenant}"
        return (
            f"name={self.name} role={self.role}{tenant} created={format_time(self.created)} "
            f"expires={format_time(self.expires)} id={self.id} hash=sha256:{self.salt.hex()}:{self.digest.hex()}"
        )


class TokenTable(NamedTuple):
    """The tokens of a file."""

    by_id: Mapping[str, TokenEntry]
    unfinished: int
    """The number of bytes at the end of the file that are no line: somebody was interrupted while writing it."""

    def named(self, name: str) -> list[TokenEntry]:
        """Return the tokens of a name, in the order of the file."""
        return [entry for entry in self.by_id.values() if entry.name == name]


def new_entry(
    id: str, text: str, *, name: str, role: Role, tenant: str | None, created: float, expires: float | None
) -> TokenEntry:
    """Return what the file needs to know of a token.

    A hash that is quick to compute is enough for a secret with more random bits than anybody can try.
    """
    salt = secrets.token_bytes(_SALT)
    return TokenEntry(id, name, role, tenant, created, expires, salt, _digest(salt, text))


def _digest(salt: bytes, text: str) -> bytes:
    return hashlib.sha256(salt + text.encode(errors="surrogateescape")).digest()


def parse_table(content: bytes) -> TokenTable:
    """Return the tokens of a file. Raises `ValueError`, which names the line and quotes nothing secret."""
    whole, feed, rest = content.rpartition(b"\n")
    tokens: dict[str, TokenEntry] = {}
    changes: list[tuple[str, Mapping[str, str]]] = []
    for number, line in enumerate((whole + feed).split(b"\n"), 1):
        _read_line(number, line, tokens, changes)
    unfinished = 0
    try:
        _read_line(content.count(b"\n") + 1, rest, tokens, changes)
    except ValueError:
        unfinished = len(rest)
    for id, fields in changes:
        if (entry := tokens.get(id)) is not None:
            tokens[id] = _changed(entry, fields)
    _check_names(tokens)
    return TokenTable(tokens, unfinished)


def _read_line(
    number: int, line: bytes, tokens: dict[str, TokenEntry], changes: list[tuple[str, Mapping[str, str]]]
) -> None:
    try:
        fields = dict(_fields(line))
        if not fields:
            return
        if "hash" not in fields:
            changes.append(_change(fields))
            return
        entry = _token(fields)
        if entry.id in tokens:
            raise ValueError(f"the id {entry.id} is that of an earlier line too")  # noqa: TRY301  # as the others
    except ValueError as exc:
        raise ValueError(f"line {number}: {exc}") from None
    if len(tokens) == MOST_TOKENS:
        raise ValueError(f"line {number}: there are more than {MOST_TOKENS} tokens")
    tokens[entry.id] = entry


def _fields(line: bytes) -> Iterator[tuple[str, str]]:
    try:
        words = line.decode("ascii").split()
    except UnicodeDecodeError:
        if line.lstrip().startswith(b"#"):
            return
        raise ValueError("it has characters that are not ASCII") from None
    seen = set()
    for word in words:
        if word.startswith("#"):
            return
        name, equals, value = word.partition("=")
        if not equals or not (name in _OF_TOKENS or name in _OF_CHANGES):
            raise ValueError("it has something other than fields such as name=builder-7, or an unknown field")
        if name in seen:
            raise ValueError(f"it has {name} twice")
        seen.add(name)
        yield name, value


def _token(fields: Mapping[str, str]) -> TokenEntry:
    if "revoked" in fields:
        raise ValueError("revoked belongs into a line without hash")
    found = _HASH.fullmatch(fields["hash"])
    if found is None:
        raise ValueError("hash is not sha256, a salt and a digest in hexadecimal")
    role = _required(fields, "role")
    if role not in list(Role):
        raise ValueError(f"role is not one of {', '.join(Role)}")
    return TokenEntry(
        id=_required(fields, "id", _ID),
        name=_required(fields, "name", _NAME),
        role=Role(role),
        tenant=_required(fields, "tenant", _NAME) if "tenant" in fields else None,
        created=parse_time(_required(fields, "created")),
        expires=_expiry(fields),
        salt=bytes.fromhex(found[1]),
        digest=bytes.fromhex(found[2]),
    )


def _change(fields: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    if not ("revoked" in fields or "expires" in fields):
        raise ValueError("hash is missing, or what else the line is to change: revoked or expires")
    if other := sorted(fields.keys() - _OF_CHANGES):
        raise ValueError(f"{other[0]} does not belong into a line without hash")
    _expiry(fields)
    parse_time(fields.get("revoked", "1970-01-01"))
    return _required(fields, "id"), fields


def _changed(entry: TokenEntry, fields: Mapping[str, str]) -> TokenEntry:
    return msgspec.structs.replace(
        entry,
        expires=_expiry(fields) if "expires" in fields else entry.expires,
        revoked=parse_time(fields["revoked"]) if "revoked" in fields else entry.revoked,
    )


def _check_names(tokens: Mapping[str, TokenEntry]) -> None:
    """Raise `ValueError` if one name stands for several identities."""
    seen: dict[str, tuple[Role, str | None]] = {}
    for entry in tokens.values():
        if entry.revoked is None and seen.setdefault(entry.name, (entry.role, entry.tenant)) != (
            entry.role,
            entry.tenant,
        ):
            raise ValueError(f"tokens of the name {entry.name} have different roles or tenants")


def _required(fields: Mapping[str, str], name: str, form: re.Pattern[str] | None = None) -> str:
    if name not in fields:
        raise ValueError(f"{name} is missing")
    return fields[name] if form is None else checked(name, fields[name], form)


def checked(name: str, value: str, form: re.Pattern[str] = _NAME) -> str:
    """Return a name, or something like it. Raises `ValueError` if it does not have its form."""
    if not form.fullmatch(value):
        length = "8 letters or digits" if form is _ID else "1 to 100 letters, digits and ._@:/+- after the first"
        raise ValueError(f"{name} must consist of {length}")
    return value


def _expiry(fields: Mapping[str, str]) -> float | None:
    text = fields.get("expires", NEVER)
    return None if text == NEVER else parse_time(text)


def parse_time(text: str) -> float:
    """Return the seconds since 1970 of a time such as `2026-01-31T12:00:00Z`, or of a day's beginning in UTC.

    Raises `ValueError`.
    """
    try:
        time = datetime.fromisoformat(f"{text}T00:00:00Z" if len(text) == len("2026-01-31") else text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or not 0 <= time.timestamp() < _YEAR_10000:
        raise ValueError("a time must be written as 2026-01-31T12:00:00Z, or a day as 2026-01-31")
    return time.timestamp()


def format_time(time: float | None) -> str:
    """Return a time as the file has it; None is `never`."""
    return NEVER if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
