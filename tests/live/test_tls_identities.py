"""Identities of TLS clients by the names in their certificates, over real connections."""

import asyncio
import json
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..tokens import bearer, new
from .conftest import COMPOSER, WORKER, Serve, Server
from .test_tls import Files, files

__all__ = ["files"]

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

IDENTITIES = """
[[identity]]
uri = "spiffe://acme.example/ci/*"
role = "submitter"
tenant = "acme"
[[identity]]
cn = "operator"
role = "admin"
name = "ops"
[[identity]]
dns = "*.workers.example.com"
role = "worker"
tenant = "acme"
"""


def issue(files: Files, *names: x509.GeneralName, common: str = "somebody", seconds: float = 3600) -> None:
    """Write the certificate `client` with these names, which is valid for so many seconds."""
    authority = serialization.load_pem_private_key(files.ca.private_key_pem.bytes(), None)
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
        .issuer_name(x509.load_pem_x509_certificate(files.ca.cert_pem.bytes()).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(seconds=seconds))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    files.write("client.pem", builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.write("client.key", private)


def context(files: Files, version: ssl.TLSVersion | None = None, certificate: str | None = "client") -> ssl.SSLContext:
    """Return the context of a client with that certificate, which speaks one version of TLS only."""
    made = ssl.create_default_context(cafile=files.ca_file)
    if certificate is not None:
        made.load_cert_chain(files.path(f"{certificate}.pem"), files.path(f"{certificate}.key"))
    if version is not None:
        made.minimum_version = made.maximum_version = version
    return made


async def serving(serve: Serve, files: Files, *options: str) -> Server:
    """Start a server that takes identities from `IDENTITIES`."""
    files.write("identities.toml", IDENTITIES.encode())
    identities = ("--tls-identities", files.path("identities.toml"))
    client_ca = ("--tls-client-ca", files.path("clients.pem"))
    return await serve(*files.server_options, *client_ca, *identities, *options)


async def whoami(server: Server, tls: ssl.SSLContext, **headers: str) -> tuple[int, Any]:
    """Return the status and the answer about the identity of a client."""
    return await server.request("GET", f"{COMPOSER}/whoami", ssl=tls, headers=headers)


class Connection:
    """One connection on which a client asks again and again who it is."""

    def __init__(self, server: Server, tls: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        plain = socket.create_connection(server.address, timeout=30)
        self._secured = tls.wrap_socket(plain, server_hostname=server.address[0], session=session)
        self._answers = self._secured.makefile("rb")

    def ask(self, path: str = f"{COMPOSER}/whoami") -> tuple[int, Any]:
        """Send a request, and return the status and the decoded answer."""
        self._secured.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        status = int(self._answers.readline().split()[1])
        length = 0
        while (line := self._answers.readline().lower().strip()) != b"":
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return status, json.loads(self._answers.read(length))

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session of the connection, with which a later one can begin faster."""
        return self._secured.session

    @property
    def resumed(self) -> bool | None:
        """True if the connection has begun with an earlier session."""
        return self._secured.session_reused

    def close(self) -> None:
        """Close the connection."""
        self._answers.close()
        self._secured.close()


@pytest.mark.row("Settings", "--tls-identities")
@pytest.mark.parametrize("version", VERSIONS)
async def test_names_in_certificates(serve: Serve, files: Files, version: ssl.TLSVersion) -> None:
    """A certificate with a name of the file has the identity that the file gives to it; the first entry counts."""
    server = await serving(serve, files)
    spiffe = x509.UniformResourceIdentifier("spiffe://acme.example/ci/7")
    for names, common, expected in (
        ((spiffe,), "x", ("spiffe://acme.example/ci/7", "submitter", "acme", "org-acme")),
        ((spiffe, x509.DNSName("w1.workers.example.com")), "operator", (spiffe.value, "submitter", "acme", "org-acme")),
        ((x509.DNSName("w1.workers.example.com"),), "x", ("w1.workers.example.com", "worker", "acme", "org-acme")),
        ((), "operator", ("ops", "admin", None, "")),
        ((x509.DNSName("operator"),), "x", None),
        ((x509.DNSName("w1.example.com"),), "w1.workers.example.com", None),
    ):
        issue(files, *names, common=common)
        status, found = await whoami(server, context(files, version))
        if expected is None:
            assert (status, found["id"]) == (401, "29")
            assert "tls_identities" in found["details"]["problem"]
            assert f"CN={common}" in found["details"]["certificate_names"]
        else:
            assert status == 200
            assert (found["name"], found["role"], found["tenant"], found["channel"]) == expected
            assert found["source"] == "certificate"
            left = datetime.fromisoformat(found["expires_at"]) - datetime.now(UTC)
            assert timedelta(minutes=50) < left < timedelta(minutes=70)


async def test_roles_of_certificates(serve: Serve, files: Files) -> None:
    """Each certificate may do what its role may, and a certificate that nobody names sees what needs no credentials."""
    server = await serving(serve, files)
    worker = context(files, certificate="worker")
    assert (await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"}, ssl=worker))[0] == 403
    assert (await server.request("POST", f"{WORKER}/workers", {"arch": "x"}, ssl=worker))[0] == 201
    files.issue("stranger", "a.example")
    stranger = context(files, certificate="stranger")
    assert (await server.request("GET", "/healthz", ssl=stranger))[0] == 200
    assert (await server.request("GET", f"{COMPOSER}/jobs", ssl=stranger))[0] == 401


async def test_allowed_domains_and_identities(serve: Serve, files: Files) -> None:
    """Allowed domains decide which certificates are accepted, and those that no entry names are workers."""
    allowed = ("--allowed-domains", "*.example.com", "--allowed-domains", "*.workers.example.com")
    server = await serving(serve, files, *allowed)
    files.issue("other", "b.example.com")
    status, found = await whoami(server, context(files, certificate="other"))
    assert (status, found["name"], found["role"], found["tenant"]) == (200, "b.example.com", "worker", None)
    assert (await whoami(server, context(files, certificate="worker")))[1]["tenant"] == "acme"
    issue(files, common="operator")  # an entry names it, and no domain accepts it
    assert (await whoami(server, context(files)))[0] == 403


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", [("--tls-identities",), ("--allowed-domains", "*.workers.example.com")])
async def test_tokens_instead_of_certificates(
    serve: Serve, files: Files, version: ssl.TLSVersion, way: tuple[str, ...]
) -> None:
    """If certificates give identities, and tokens do too, a client needs one of both; a token counts first."""
    files.write("identities.toml", IDENTITIES.encode())
    if way == ("--tls-identities",):
        way = (*way, files.path("identities.toml"))
    tokens = files.directory / "tokens"
    headers = bearer(new(tokens, "ops", "admin"))
    client_ca = ("--tls-client-ca", files.path("clients.pem"))
    server = await serve(*files.server_options, *client_ca, *way, "--tokens", str(tokens))
    nobody, worker = context(files, version, None), context(files, version, "worker")
    assert (await whoami(server, nobody))[0] == 401
    assert (await whoami(server, nobody, **headers))[1]["name"] == "ops"
    assert (await whoami(server, worker))[1]["name"] == "w1.workers.example.com"
    assert (await whoami(server, worker, **headers))[1]["name"] == "ops"
    assert (await whoami(server, worker, Authorization="Bearer wrong"))[0] == 401
    files.issue("stranger", "w1.workers.example.com", ca=files.stranger)
    with pytest.raises(aiohttp.ClientError):  # a certificate of another authority is refused, and not ignored
        await whoami(server, context(files, version, "stranger"), **headers)


async def test_tokens_besides_certificates(serve: Serve, files: Files) -> None:
    """If certificates give no identities, a client needs one nevertheless, and a token as well."""
    tokens = files.directory / "tokens"
    headers = bearer(new(tokens, "ops", "admin"))
    client_ca = ("--tls-client-ca", files.path("clients.pem"))
    server = await serve(*files.server_options, *client_ca, "--tokens", str(tokens))
    worker = context(files, certificate="worker")
    assert (await whoami(server, worker))[0] == 401
    assert (await whoami(server, worker, **headers))[0] == 200
    with pytest.raises(aiohttp.ClientError):
        await whoami(server, context(files, certificate=None), **headers)


async def test_a_client_ca_alone(serve: Serve, files: Files) -> None:
    """With --tls-client-ca alone, whoever has a certificate may do everything, as ever."""
    server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"))
    status, found = await whoami(server, context(files, certificate="worker"))
    assert (status, found["role"], found["source"]) == (200, "admin", None)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_resumed_session(serve: Serve, files: Files, version: ssl.TLSVersion) -> None:
    """A connection that resumes a session has the identity of the certificate that began the session."""
    server = await serving(serve, files)
    tls = context(files, version, "worker")
    first = Connection(server, tls)
    assert (await asyncio.to_thread(first.ask))[1]["name"] == "w1.workers.example.com"
    second = Connection(server, tls, first.session)
    assert second.resumed
    assert (await asyncio.to_thread(second.ask))[1]["name"] == "w1.workers.example.com"
    first.close()
    second.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_certificate_that_expires(serve: Serve, files: Files, version: ssl.TLSVersion) -> None:
    """A certificate that expires ends the identity of its open connection, and of sessions that are resumed."""
    server = await serving(serve, files)
    issue(files, x509.DNSName("w1.workers.example.com"), seconds=2.5)
    tls = context(files, version)
    open_one = Connection(server, tls)
    assert (await asyncio.to_thread(open_one.ask))[0] == 200

    async def expired() -> bool:
        return (await asyncio.to_thread(open_one.ask))[0] == 401

    await server.until(expired)
    assert "expired" in (await asyncio.to_thread(open_one.ask))[1]["details"]["problem"]
    assert (await asyncio.to_thread(open_one.ask, f"{COMPOSER}/status"))[0] == 200
    resumed = Connection(server, tls, open_one.session)
    assert resumed.resumed
    assert (await asyncio.to_thread(resumed.ask))[0] == 401
    resumed.close()
    open_one.close()


async def test_another_file(serve: Serve, files: Files) -> None:
    """A change of the file holds for open connections within two seconds; one with a mistake changes nothing."""
    server = await serving(serve, files)
    connection = Connection(server, context(files, certificate="worker"))
    assert (await asyncio.to_thread(connection.ask))[1]["role"] == "worker"
    files.write("identities.toml", IDENTITIES.replace('"worker"', '"viewer"').encode())

    async def changed() -> bool:
        return bool((await asyncio.to_thread(connection.ask))[1].get("role") == "viewer")

    async with asyncio.timeout(10):
        await server.until(changed)
    files.write("identities.toml", b"[[identity]]\n")

    async def reported() -> bool:
        return b"so its previous version stays in force: in table 1" in server.log

    await server.until(reported)
    assert (await asyncio.to_thread(connection.ask))[1]["role"] == "viewer"
    connection.close()
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0


async def test_a_proxy_with_a_certificate(serve: Serve, files: Files) -> None:
    """The certificate of a proxy says nothing about those for whom it asks."""
    server = await serving(serve, files)
    tls = context(files, certificate="worker")
    assert (await whoami(server, tls, **{"X-Forwarded-For": "192.0.2.1"}))[0] == 401
    assert (await whoami(server, tls))[0] == 200
