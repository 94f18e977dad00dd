"""The source of identities that knows the tokens of a file."""

import time
from collections.abc import Callable
from pathlib import Path

from composerd.errors import NotAuthenticated
from composerd.identity.tokens.entries import TokenEntry, TokenTable, parse_table
from composerd.identity.values import Identity
from composerd.watched_file import WatchedFile
from composerd_protocol.bearer_tokens import PREFIX, parse_token


class TokenSource:
    """Knows whose the tokens of a file are, as the file is now."""

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        """Read the file. Raises `UnusableFile`."""
        self._file: WatchedFile[TokenTable] = WatchedFile(path, parse_table, "tokens", secret=True)
        self._file.on_change = self._forget
        self._clock = clock
        self._known: dict[str, Identity] = {}
        """The tokens that were verified since the file has changed; at most all of the file."""

    @property
    def problem(self) -> str | None:
        """The reason why a change of the file is not in force."""
        return self._file.problem

    async def run(self) -> None:
        """Look for changes of the file until canceled."""
        await self._file.run()

    def takes(self, token: str) -> bool:
        """Return True if a token begins as those that `composerd token create` makes."""
        return token.startswith(PREFIX)

    def known(self, token: str) -> Identity | None:
        """Return whose token it is if that was verified before, and if it has not expired."""
        identity = self._known.get(token)
        if identity is None or identity.expires_at is None or self._clock() < identity.expires_at:
            return identity
        del self._known[token]
        return None

    async def identify(self, token: str) -> Identity:
        """Return whose token it is. Raises `NotAuthenticated`."""
        try:
            id = parse_token(token).id
        except ValueError as exc:
            raise _refused(str(exc)) from None
        if id not in self._file.value.by_id:
            await self._file.look_now()  # somebody may use a token as soon as it is printed
        entry = self._verified(id, token)
        identity = Identity(entry.name, entry.role, entry.tenant, "token", entry.expires)
        self._known[token] = identity
        return identity

    def _verified(self, id: str, token: str) -> TokenEntry:
        entry = self._file.value.by_id.get(id)
        if entry is None or not entry.is_text(token):
            raise _refused("nobody has this token")
        if (refusal := entry.refusal(self._clock())) is not None:
            raise _refused(refusal, expired=entry.state(self._clock()) == "expired")
        return entry

    def _forget(self) -> None:
        self._known.clear()


def _refused(problem: str, *, expired: bool = False) -> NotAuthenticated:
    return NotAuthenticated(problem=problem, sent=True, expired=expired)
