"""Changes of a tokens file: lines at its end, by one process at a time."""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from composerd.identity.roles import Role
from composerd.identity.tokens.entries import (
    MOST_TOKENS,
    TokenEntry,
    TokenTable,
    format_time,
    new_entry,
    parse_table,
)
from composerd.ownership import check_trusted
from composerd.stable_storage import sync_directory
from composerd.watched_file import LARGEST
from composerd_protocol.bearer_tokens import BearerToken, new_token

_HEADER = b"""\
# Tokens of composerd, with hashes of their secrets. `composerd token` adds lines at the end.
# A line without a hash changes the token with its id. To remove a token, delete its lines.
"""


class TokensFile:
    """A tokens file that is locked: nobody else adds lines meanwhile."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Read the file. Raises `ValueError` if it has a mistake, or if others can write to it."""
        check_trusted(os.fstat(file.fileno()), any_owner=True)  # the server looks at that
        self._directory = path.absolute().parent
        self._descriptor = file.fileno()
        self._take(file.read(LARGEST + 1))

    def _take(self, content: bytes) -> None:
        """Read what the file has. Raises `ValueError` if it has a mistake."""
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
        self.table: TokenTable = parse_table(content)
        self._content = content[: len(content) - self.table.unfinished]

    def create(self, name: str, role: Role, tenant: str | None, expires: float | None) -> BearerToken:
        """Add a token, and return it.

        Raises `ValueError` if the name is that of a token which is not revoked.
        """
        if any(entry.revoked is None for entry in self.table.named(name)):
            raise ValueError(
                f"there is a token of {name}: choose another name, or replace it with `composerd token rotate {name}`"
            )
        token, line = self._new(name, role, tenant, expires)
        self._add([line])
        return token

    def rotate(self, name: str, expires: float | None, old_until: float) -> BearerToken:
        """Add a token for an identity whose others expire at `old_until` then, and return it.

        Raises `ValueError` if it has none that is not revoked.
        """
        old = self.not_revoked(name)
        if not old:
            raise ValueError(f"the token of {name} is revoked: make another one with `composerd token create`")
        token, line = self._new(name, old[0].role, old[0].tenant, expires)
        ends = [
            f"name={entry.name} id={entry.id} expires={format_time(old_until)}"
            for entry in old
            if entry.expires is None or entry.expires > old_until
        ]
        self._add([line, *ends])
        return token

    def not_revoked(self, name: str) -> list[TokenEntry]:
        """Return the tokens of an identity that are not revoked. Raises `ValueError` if it has never had one."""
        entries = self.table.named(name)
        if not entries:
            raise ValueError(f"no token is named {name}")
        return [entry for entry in entries if entry.revoked is None]

    def revoke(self, entries: Iterable[TokenEntry]) -> None:
        """Revoke tokens."""
        now = format_time(time.time())
        self._add([f"name={entry.name} id={entry.id} revoked={now}" for entry in entries])

    def _new(self, name: str, role: Role, tenant: str | None, expires: float | None) -> tuple[BearerToken, str]:
        if len(self.table.by_id) >= MOST_TOKENS:
            raise ValueError(f"there are {MOST_TOKENS} tokens: delete the lines of those that nobody needs")
        token = new_token()
        while token.id in self.table.by_id:
            token = new_token()
        entry = new_entry(
            token.id, token.text, name=name, role=role, tenant=tenant, created=time.time(), expires=expires
        )
        return token, entry.line()

    def _add(self, lines: Iterable[str]) -> None:
        """Add lines, and return when they are on stable storage. If it raises, the file has none of them."""
        added = "".join(f"{line}\n" for line in lines).encode()
        end = len(self._content)
        if not end:
            added = _HEADER + added
            sync_directory(self._directory)
        elif not self._content.endswith(b"\n"):  # somebody has left out the last line feed
            added = b"\n" + added
        if end + len(added) > LARGEST:
            raise ValueError(f"it would be larger than {LARGEST} bytes: delete the lines of tokens that nobody needs")
        try:
            os.ftruncate(self._descriptor, end)
            written = 0
            while written < len(added):
                written += os.pwrite(self._descriptor, added[written:], end + written)
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise
        self._take(self._content + added)


@contextmanager
def changing(path: Path, *, create: bool = False) -> Iterator[TokensFile]:
    """Open a tokens file for changes, when nobody else changes it. A new one is for its owner only.

    Raises `OSError`, and `ValueError` as `TokensFile` does.
    """
    with os.fdopen(_locked(path, os.O_CREAT if create else 0), "r+b") as file:
        yield TokensFile(path, file)


def _locked(path: Path, create: int) -> int:
    """Return a descriptor of the file at the path, which is locked; it may have been another one a moment ago."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
