"""The sources of identities that the settings name."""

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from composerd.identity.certificates import Certificates, parse_certificates
from composerd.identity.jwt.claims import JwtClaims
from composerd.identity.jwt.source import JwtSource
from composerd.identity.jwt.verifying import Verifier
from composerd.identity.sources import BearerSource, Identities, PeerSource
from composerd.identity.tokens.source import TokenSource
from composerd.identity.unix_peers import UnixPeers, parse_peers
from composerd.settings import Settings
from composerd.watched_file import WatchedFile


@asynccontextmanager
async def running_identities(settings: Settings, sockets: Sequence[socket.socket]) -> AsyncIterator[Identities]:
    """Keep the sources of identities up to date for the length of a block.

    `sockets` are those that the server listens on. Raises `UnusableFile` if one of the files cannot be used.
    """
    bearers, peers = _sources(settings, sockets)
    identities = Identities(bearers, peers)
    async with identities.running():
        yield identities


def _sources(settings: Settings, sockets: Sequence[socket.socket]) -> tuple[list[BearerSource], list[PeerSource]]:
    """Return the sources that the settings name. If there is one at all, peers on unix sockets have identities too."""
    bearers: list[BearerSource] = []
    peers: list[PeerSource] = []
    if settings.tokens is not None:
        bearers.append(TokenSource(settings.tokens))
    if settings.jwt_keys:
        bearers.append(_jwt_source(settings))
    if settings.tls_identities is not None or settings.allowed_domains:
        path = settings.tls_identities
        file = None if path is None else WatchedFile(path, parse_certificates, "tls_identities")
        peers.append(Certificates(file, settings.allowed_domains))
    if settings.socket_identities is not None:
        mapped = WatchedFile(settings.socket_identities, parse_peers, "socket_identities")
        peers.append(UnixPeers(mapped, {}))
    elif bearers or peers:
        peers.append(UnixPeers(None, _groups(sockets)))
    return bearers, peers


def _groups(sockets: Sequence[socket.socket]) -> Mapping[str | bytes, int]:
    """Return the groups of the files of unix sockets, by the paths of the sockets. Abstract sockets have no group."""
    groups: dict[str | bytes, int] = {}
    for listening in sockets:
        if listening.family == socket.AF_UNIX and (path := listening.getsockname()) and isinstance(path, str):
            with suppress(OSError):
                groups[path] = Path(path).stat().st_gid
    return groups


def _jwt_source(settings: Settings) -> JwtSource:
    assert settings.jwt_issuer is not None  # reading the settings makes sure of both
    assert settings.jwt_audience is not None
    claims = JwtClaims(
        tenant_claims=settings.jwt_tenant_claim,
        role_claim=settings.jwt_role_claim,
        roles=settings.jwt_role,
        default_role=settings.jwt_default_role,
    )
    verifier = Verifier(settings.jwt_issuer, settings.jwt_audience)
    return JwtSource(settings.jwt_keys, verifier, claims, settings.jwt_acl)
