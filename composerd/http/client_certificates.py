"""The check of the names in a client's certificate against the allowed domains."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from composerd.http.errors import NotAllowed


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
