"""The work of `composerd token`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from composerd.cli.errors import Failure
from composerd.cli.running.console import print_json, print_table
from composerd.identity.roles import Role
from composerd.identity.tokens.changes import TokensFile, changing
from composerd.identity.tokens.entries import NEVER, TokenEntry, TokenTable, format_time, parse_table, parse_time
from composerd.watched_file import read_trusted
from composerd_protocol.bearer_tokens import BearerToken, parse_token
from composerd_protocol.exit_codes import FAILED
from composerd_protocol.units import parse_duration

_LONGEST = 100 * 365 * 86400.0
"""The longest time in seconds until a token expires, if it does: the file has years of four digits."""


def expiry(text: str) -> float | None:
    """Return the time at which a token expires, or None for never. Raises `ValueError`."""
    if text == NEVER:
        return None
    now = time.time()
    try:
        expires = now + parse_duration(text)
    except ValueError:
        try:
            expires = parse_time(text)
        except ValueError:
            raise ValueError(
                f"{text[:40]!r} is not a duration such as 90d, a time such as 2030-01-31T12:00:00Z or 2030-01-31, "
                "nor never"
            ) from None
    if not now < expires < now + _LONGEST:
        raise ValueError(f"{text[:40]!r} is not in the future, or more than 100 years away: write never")
    return expires


def create(path: Path, name: str, role: str, tenant: str | None, expires: float | None) -> None:
    """Add a token, and print its secret."""
    with _changing(path, create=True) as file:
        token = file.create(name, Role(role), tenant, expires)
    _hand_out(path, name, token, expires)


def rotate(path: Path, name: str, expires: float | None, overlap: float) -> None:
    """Add a token for an identity that has one, and print its secret."""
    with _changing(path) as file:
        token = file.rotate(name, expires, time.time() + overlap)
    _hand_out(path, name, token, expires)


def _hand_out(path: Path, name: str, token: BearerToken, expires: float | None) -> None:
    """Print the secret of a token, and revoke the token if nobody has got to see it."""
    try:
        sys.stdout.write(f"{token.text}\n")
        sys.stdout.flush()
    except OSError:
        with _changing(path) as file:
            file.revoke([file.table.by_id[token.id]])
        raise
    end = "never expires" if expires is None else f"expires at {format_time(expires)}"
    click.echo(f"composerd: this token of {name} is not shown again; it {end}", err=True)


def revoke(path: Path, name: str) -> None:
    """Revoke every token of an identity."""
    with _changing(path) as file:
        if entries := file.not_revoked(name):
            file.revoke(entries)
    click.echo(f"{name} is revoked; servers notice it within 2 s" if entries else f"{name} was revoked before")


def list_tokens(path: Path, as_json: bool) -> None:
    """List the tokens of a file."""
    table = _read(path)
    shown = [_shown(entry) for entry in table.by_id.values()]
    if as_json:
        print_json({"kind": "TokenList", "items": shown})
    else:
        _print(shown)
    if table.unfinished:
        click.echo(f"composerd: the last line of {path} is not whole and counts for nothing: delete it", err=True)


def verify(path: Path, as_json: bool) -> None:
    """Read a token from stdin, and say whose it is."""
    table = _read(path)
    text = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline(1000)
    text = text.strip()
    try:
        entry = table.by_id.get(parse_token(text).id)
    except ValueError as exc:
        raise Failure(str(exc), FAILED) from exc
    if entry is None or not entry.is_text(text):
        raise Failure("nobody has this token", FAILED)
    if (refusal := entry.refusal(time.time())) is not None:
        raise Failure(refusal, FAILED)
    if as_json:
        print_json({"kind": "Token", **_shown(entry)})
    else:
        _print([_shown(entry)])


def _shown(entry: TokenEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "role": entry.role,
        "tenant": entry.tenant,
        "created": format_time(entry.created),
        "expires": None if entry.expires is None else format_time(entry.expires),
        "state": entry.state(time.time()),
        "id": entry.id,
    }


def _print(shown: list[dict[str, Any]]) -> None:
    columns = ("name", "role", "tenant", "created", "expires", "state", "id")
    rows = [["" if one[name] is None else str(one[name]) for name in columns] for one in shown]
    for row in rows:
        row[4] = row[4] or NEVER
    print_table(columns, rows)


def _read(path: Path) -> TokenTable:
    with _translated(path, "read"):
        return parse_table(read_trusted(path, any_owner=True))


@contextmanager
def _changing(path: Path, *, create: bool = False) -> Iterator[TokensFile]:
    with _translated(path, "change"), changing(path, create=create) as file:
        yield file


@contextmanager
def _translated(path: Path, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise Failure(f"cannot {action} {path}: {exc.strerror}", FAILED) from exc
    except ValueError as exc:
        raise Failure(f"{path}: {exc}", FAILED) from exc
