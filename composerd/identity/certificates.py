"""Identities of TLS clients, from the names in their certificates."""

import re
import ssl
from asyncio import BaseTransport
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from composerd.errors import NotAuthenticated
from composerd.host_names import DOMAIN, matches
from composerd.identity.connections import ConnectionSource
from composerd.identity.entries import Entry, parse_entries
from composerd.identity.roles import Role
from composerd.identity.values import LONGEST_NAME, Identity
from composerd.watched_file import WatchedFile
from composerd_protocol.words import is_word

SOURCE = "certificate"

_MOST_SHOWN = 20
"""The most names of a certificate in an error."""

_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]+((?!/\.{1,2}(?:/|$))/[A-Za-z0-9._-]+)*")
"""A SPIFFE id. Its path has no empty segment, no `.` and no `..`."""

_URI = re.compile(r"[a-z][a-z0-9+.-]*:\S+")


class CertificateEntry(Entry, frozen=True, kw_only=True):
    """The identity of certificates with a name."""

    dns: str | None = None
    """A domain, whose first label may be `*`."""
    uri: str | None = None
    """A URI, such as a SPIFFE id. `/*` at its end stands for everything below."""
    cn: str | None = None
    """A common name, which many authorities let clients choose."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.named_by(("dns", "uri", "cn"))
        if self.dns is not None and not DOMAIN.fullmatch(self.dns):
            raise ValueError(f"dns {self.dns!r} is not a domain such as worker.example.com or *.example.com")
        if self.uri is not None:
            form = _SPIFFE if self.uri.startswith("spiffe:") else _URI
            if not form.fullmatch(self.uri.removesuffix("/*")):
                raise ValueError(f"uri {self.uri!r} is not a URI such as spiffe://example.com/ci/worker")

    def name_in(self, certificate: "Names") -> str | None:
        """Return the first name of a certificate that this entry is about; None if there is none."""
        if self.dns is not None:
            return next((name for name in certificate.dns if matches(name, self.dns)), None)
        if self.uri is None:
            return self.cn if self.cn in certificate.common else None
        if self.uri.endswith("/*"):
            return next((name for name in certificate.uris if name.startswith(self.uri[:-1])), None)
        return self.uri if self.uri in certificate.uris else None


class Names:
    """The names in a certificate that can belong to an identity."""

    def __init__(self, certificate: Mapping[str, Any]) -> None:
        """Read what `SSLSocket.getpeercert` returns. Names that are too long, or no words, cannot be of identities."""
        alternatives = certificate.get("subjectAltName", ())
        subject = (pair for part in certificate.get("subject", ()) for pair in part)
        self.dns = tuple(name.lower() for name in _of_kind("DNS", alternatives))
        self.uris = _of_kind("URI", alternatives)
        self.common = _of_kind("commonName", subject)
        # SPIFFE allows no second URI, and its paths have no way up.
        self.uris = tuple(uri for uri in self.uris if not uri.lower().startswith("spiffe:") or self._is_spiffe_id(uri))

    def _is_spiffe_id(self, uri: str) -> bool:
        return len(self.uris) == 1 and _SPIFFE.fullmatch(uri) is not None

    def shown(self) -> list[str]:
        """Return the names for a person who looks for the reason of a refusal."""
        return [*self.dns, *self.uris, *(f"CN={name}" for name in self.common)][:_MOST_SHOWN]


def _of_kind(kind: str, names: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(name for one, name in names if one == kind and 0 < len(name) <= LONGEST_NAME and is_word(name))


def parse_certificates(content: bytes) -> Sequence[CertificateEntry]:
    """Return the entries of the file that `tls_identities` names. Raises `ValueError`."""
    return parse_entries(content, CertificateEntry)


class Certificates(ConnectionSource[Sequence[CertificateEntry]]):
    """The source of identities that looks at the certificates of TLS clients."""

    def __init__(self, file: WatchedFile[Sequence[CertificateEntry]] | None, domains: Sequence[str] = ()) -> None:
        """Take the identities from a file. Certificates that it does not name are workers if they are in `domains`."""
        super().__init__(file)
        self._domains = domains

    def _look_at(self, transport: BaseTransport, mapped: Sequence[CertificateEntry] | None) -> Identity | None:
        certificate = transport.get_extra_info("peercert")
        if not certificate:
            return None
        names = Names(certificate)
        ends = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
        for entry in mapped or ():
            name = entry.name_in(names)
            if name is not None:
                return Identity(entry.name or name, entry.role, entry.tenant, SOURCE, ends)
        for name in names.dns:
            if any(matches(name, domain) for domain in self._domains):
                return Identity(name, Role.WORKER, None, SOURCE, ends)
        problem = "no identity belongs to the client's certificate: name it in tls_identities"
        raise NotAuthenticated(certificate_names=names.shown(), problem=problem)
