"""The TLS configuration: the server's certificate, and the CA of the clients' certificates.

The names in clients' certificates are checked in `composerd.http.boundary`.
"""

import ssl
from asyncio import sslproto

import msgspec

from composerd.settings import Settings, SettingsError

BUFFER = 32 * 1024
"""Size of the buffer that each connection with TLS has from its beginning; a record of TLS fits into it."""


class TLSFiles(msgspec.Struct, frozen=True):
    """The PEM files that TLS is configured with."""

    certificate: str
    key: str
    client_ca: str | None = None
    client_certificates: ssl.VerifyMode = ssl.CERT_REQUIRED
    """With a `client_ca`, the rule for clients without a certificate: whether they may connect."""

    @classmethod
    def from_settings(cls, settings: Settings) -> "TLSFiles | None":
        """Return the files that the settings name, or None if TLS is off."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        asked = ssl.CERT_OPTIONAL if settings.certificates_suffice else ssl.CERT_REQUIRED
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca, asked)

    def context(self) -> ssl.SSLContext:
        """Read the files again, and return the context for new connections. Raises `SettingsError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 or newer
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as exc:
            raise SettingsError(
                f"tls_cert and tls_key: {self.certificate} and {self.key} are not a certificate and its private key "
                f"in PEM format: {_reason(exc)}"
            ) from exc
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as exc:
                raise SettingsError(
                    f"tls_client_ca: {self.client_ca} has no certificates in PEM format: {_reason(exc)}"
                ) from exc
            context.verify_mode = self.client_certificates
        return context


def bound_memory() -> None:
    """Let connections with TLS have a small buffer from now on.

    asyncio makes one of 256 KiB and fills it with zeros for each connection, before the client has sent anything: then
    10,000 clients that only connect take 3 GB.
    """
    sslproto.SSLProtocol.max_size = BUFFER


def _no_password() -> str:
    raise ValueError("the private key is encrypted with a password, which is not supported")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
