"""Refresh tokens, which a token server may replace each time that one is used."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composerd_client.credentials.tokens import secret_in
from composerd_client.errors import TokenRefused
from composerd_client.private_files import write_private

log = logging.getLogger(__name__)

_LOCKED_WITHIN = 20.0
"""Seconds after which a refresh token is used although another process seems to be using it."""

_LOOK_EVERY = 0.1


class RefreshToken:
    """A refresh token of a program, or in a file. Raises `ValueError` if the file has none.

    Processes that share a file use it one after the other: a token server that replaces refresh tokens takes a second
    use of one for a theft, and then refuses all of them.
    """

    def __init__(self, token: str | None, path: Path | str | None) -> None:
        self._path = None if path is None else Path(path)
        self._token = token or ""
        self._in_file = "" if self._path is None else _read(self._path)
        self._newer = ""
        """The token that should be in the file, if it cannot be written."""

    @contextmanager
    def held(self) -> Iterator[str]:
        """Yield the token while no other process uses it. Raises `TokenRefused` if the file has none any more."""
        if self._path is None:
            yield self._token
            return
        with _locked(self._path):
            try:
                found = _read(self._path)
            except ValueError as exc:
                raise TokenRefused(str(exc)) from exc
            if found != self._in_file:  # somebody has written another one
                self._in_file, self._newer = found, ""
            yield self._newer or found

    def keep(self, token: str) -> None:
        """Use a token from now on, and write it to the file if there is one."""
        self._token = token
        if self._path is None:
            return
        try:
            write_private(self._path.resolve(), token + "\n")
        except OSError as exc:
            self._newer = token
            log.warning(
                "cannot write the new refresh token to %s (%s), keeping it in memory: the one in the file may be "
                "refused after a restart",
                self._path,
                exc.strerror,
            )
        else:
            self._in_file, self._newer = token, ""


def is_refresh_token(text: str) -> bool:
    """Return True if a text can be a refresh token, and so be the only line of a file."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _read(path: Path) -> str:
    text = secret_in(path, "the file with the refresh token").strip()
    if not is_refresh_token(text):
        raise ValueError(f"the file with the refresh token {path} has none: write one there, and nothing else")
    return text


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file that others may replace meanwhile. A file that cannot be locked is used nevertheless."""
    deadline = time.monotonic() + _LOCKED_WITHIN
    descriptor = -1
    try:
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, descriptor):
                    break
            except BlockingIOError:
                time.sleep(_LOOK_EVERY)
            except OSError:
                break
            if time.monotonic() > deadline:
                log.warning("another process has been using the refresh token in %s for long, using it too", path)
                break
            os.close(descriptor)
            descriptor = -1
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return True if an open file still has this path."""
    return os.path.samestat(path.stat(), os.fstat(descriptor))
