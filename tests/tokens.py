"""Tokens files of servers in tests, and requests with their tokens."""

from pathlib import Path

from composerd.identity.roles import Role
from composerd.identity.tokens.changes import changing


def new(path: Path, name: str, role: str, tenant: str | None = None, expires: float | None = None) -> str:
    """Add a token to a tokens file, which is made if it does not exist, and return it."""
    with changing(path, create=True) as file:
        return file.create(name, Role(role), tenant, expires).text


def revoke(path: Path, name: str) -> None:
    """Revoke the tokens of a name."""
    with changing(path) as file:
        file.revoke(file.not_revoked(name))


def bearer(token: str) -> dict[str, str]:
    """Return the headers of a request with a token."""
    return {"Authorization": f"Bearer {token}"}
