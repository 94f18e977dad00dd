"""TLS on the TCP addresses: the server's certificate, and with a client CA, whose certificates may come in."""

import ssl
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from composerd.api.errors import NotAllowed
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


def only_from(domains: Sequence[str]) -> Any:
    """A middleware that lets those in over TLS whose certificate has a name in one of the domains."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        certificate = request.get_extra_info("peercert")
        if certificate is not None:
            names = names_of(certificate)
            if not any(matches(name, domain) for name in names for domain in domains):
                raise NotAllowed(certificate_names=names, problem="none of them is in the allowed domains")
        return await handler(request)

    return check


def names_of(certificate: dict[str, Any]) -> list[str]:
    """The DNS names that a certificate is for, its alternative names: what `ssl` says of a peer's certificate."""
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]


def matches(name: str, domain: str) -> bool:
    """Whether one of the two is the other; a first label `*`, in either, stands for any one label."""
    name, domain = name.lower().rstrip("."), domain.lower().rstrip(".")
    if name == domain:
        return True
    name_host, _, name_rest = name.partition(".")
    domain_host, _, domain_rest = domain.partition(".")
    return "*" in (name_host, domain_host) and name_rest == domain_rest != ""


def _no_password() -> str:
    raise ValueError("the key needs a password")


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
