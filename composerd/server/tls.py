"""TLS on the TCP addresses: the server's certificate, and the CA that signs the clients' certificates."""

import ssl

import msgspec

from composerd.settings import Settings, SettingsError


class Identity(msgspec.Struct, frozen=True):
    """The files that TLS needs."""

    certificate: str
    key: str
    client_ca: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Identity | None":
        """What the settings say; None: no TLS."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        return cls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)

    def context(self) -> ssl.SSLContext:
        """Read the files anew; what the next connections are made with. Raises `SettingsError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 or newer
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as exc:
            raise SettingsError(
                f"tls_cert and tls_key: {self.certificate} and {self.key} are not a certificate and its key in PEM: "
                f"{_in_words(exc)}"
            ) from exc
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as exc:
                raise SettingsError(
                    f"tls_client_ca: {self.client_ca} has no certificates in PEM: {_in_words(exc)}"
                ) from exc
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _no_password() -> str:
    raise ValueError("the key needs a password")


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
