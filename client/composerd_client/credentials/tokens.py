"""Bearer tokens that are known already: one that a program has, and one in a file."""

import logging
import re
import time
from abc import ABC, abstractmethod
from pathlib import Path

from composerd_client.file_states import file_state
from composerd_protocol.escaping import without_bearer_tokens

log = logging.getLogger(__name__)

LARGEST = 128 * 1024
"""The most bytes of a file with a secret."""

_LOOK_EVERY = 1.0
"""Seconds after which a file is looked at again."""

TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""A bearer token as it may be in a header (RFC 6750)."""


class Credentials(ABC):
    """A source of bearer tokens for one server. Several clients may share it.

    A token goes only to the server that a client was made for, over TLS, a unix socket or within this machine. With
    `insecure_http` it is also sent where everybody on the way can read it.
    """

    def __init__(self, *, insecure_http: bool) -> None:
        self.insecure_http = insecure_http

    @abstractmethod
    async def token(self) -> str:
        """Return the token for a request that is sent now."""

    @abstractmethod
    async def renewed(self, refused: str) -> bool:
        """Return True if there is another token than one that the server has refused."""

    def accepted(self, token: str) -> None:  # noqa: B027  # most sources need not know
        """Note that the server has accepted a token."""


class Token(Credentials):
    """A token that does not change. Raises `ValueError` for a text that cannot be one."""

    def __init__(self, token: str, *, insecure_http: bool = False) -> None:
        super().__init__(insecure_http=insecure_http)
        self._token = checked_token(token, "the token")

    async def token(self) -> str:
        """Return the token."""
        return self._token

    async def renewed(self, refused: str) -> bool:
        """Return True if the refused token is another one."""
        return refused != self._token


class TokenFile(Credentials):
    """The token in a file, which is read again when it changes, as Kubernetes changes it.

    Raises `ValueError` if the file cannot be read or has no token. If that happens later, the latest token stays in
    use until the file changes again.
    """

    def __init__(self, path: Path | str, *, insecure_http: bool = False) -> None:
        super().__init__(insecure_http=insecure_http)
        self._path = Path(path)
        self._seen = file_state(self._path)
        self._token = _token_in(self._path)
        self._looked_at = time.monotonic()

    async def token(self) -> str:
        """Return the token that is in the file now."""
        if time.monotonic() - self._looked_at >= _LOOK_EVERY:
            self._look()
        return self._token

    async def renewed(self, refused: str) -> bool:
        """Read the file, and return True if it has another token than the refused one."""
        self._look()
        return self._token != refused

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        state = file_state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._token = _token_in(self._path)
        except ValueError as exc:
            log.warning("cannot use the token file that has changed, keeping the token that it had: %s", exc)
        else:
            log.info("read the token again, because %s has changed", self._path)


def checked_token(text: str, source: str) -> str:
    """Return the token in a text without the white space around it.

    Raises `ValueError` if it cannot be a bearer token; the message names the source, and quotes nothing.
    """
    from composerd_protocol.bearer_tokens import PREFIX, parse_token  # noqa: PLC0415  # most programs have no tokens

    token = text.strip()
    if not token:
        raise ValueError(f"{source} is empty: write a token there, as `composerd token create` prints it")
    if not TOKEN.fullmatch(token):
        wrong = "more than one line" if "\n" in token else "characters that a token does not have"
        raise ValueError(f"{source} has {wrong}: write one token there, and nothing else")
    if token.startswith(PREFIX):
        try:
            parse_token(token)
        except ValueError as exc:
            raise ValueError(f"{source}{str(exc).removeprefix('the token')}") from None
    return token


def secret_in(path: Path, source: str) -> str:
    """Return the text of a small file. Raises `ValueError`, which names the source and the file, and quotes nothing."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as exc:
        if without_bearer_tokens(path.name) != path.name:
            raise ValueError(
                f"a token stands where the name of {source} belongs: write the name of a file that has it"
            ) from None
        raise ValueError(f"{source} {path} cannot be read: {exc.strerror}") from exc
    if len(content) > LARGEST:
        raise ValueError(f"{source} {path} has more than {LARGEST} bytes, so it is none")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{source} {path} is not text") from None


def _token_in(path: Path) -> str:
    return checked_token(secret_in(path, "the token file"), f"the token file {path}")
