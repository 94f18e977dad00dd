"""The files for TLS: the CA of the server, and the client's own certificate."""

import logging
import ssl
import time
from pathlib import Path

from composerd_client.file_states import file_state

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds after which the files are looked at again."""


def tls_context(
    ca_file: Path | str | None, cert_file: Path | str | None, key_file: Path | str | None
) -> ssl.SSLContext:
    """Return the context for a server with TLS. Raises `ValueError` if a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ValueError(f"{ca_file} has no PEM certificates: {exc.strerror or exc}") from exc
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except OSError as exc:
            if key_file is None and not _has_key(cert_file):
                raise ValueError(f"no private key in {cert_file}; name its file with --key-file (key_file)") from exc
            pair = f"{cert_file} with the key in {key_file or cert_file}"
            raise ValueError(f"cannot load the PEM certificate {pair}: {exc.strerror or exc}") from exc
    elif key_file is not None:
        raise ValueError(f"{key_file} needs a certificate; name its file with --cert-file (cert_file)")
    return context


class TlsFiles:
    """The files for TLS. They are read again when they change, as when a certificate is renewed.

    The constructor raises `ValueError` if a file cannot be used. If that happens later, for example because only one of
    two files has been replaced so far, the old ones stay in use until there is another change.
    """

    def __init__(self, ca_file: Path | str | None, cert_file: Path | str | None, key_file: Path | str | None) -> None:
        self._files = (ca_file, cert_file, key_file)
        self._seen = self._state()
        self._context = tls_context(*self._files)
        self._looked_at = time.monotonic()

    @property
    def context(self) -> ssl.SSLContext:
        """The context for a new connection."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            state = self._state()
            if state != self._seen:
                self._seen = state
                self._read_again()
        return self._context

    def _read_again(self) -> None:
        try:
            self._context = tls_context(*self._files)
        except ValueError as exc:
            log.warning("cannot use the TLS files that have changed, keeping the old ones: %s", exc)
        else:
            log.info("read the TLS files again, because they have changed")

    def _state(self) -> list[tuple[int, ...] | None]:
        """Return what changes when one of the files is written or replaced."""
        return [None if file is None else file_state(file) for file in self._files]


def _has_key(file: Path | str) -> bool:
    try:
        return b"PRIVATE KEY-----" in Path(file).read_bytes()
    except OSError:
        return True  # the file itself is the problem


def _no_password() -> str:
    raise ValueError("the private key is protected by a password, which is not supported; remove the password")
