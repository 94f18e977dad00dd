"""TLS on a live server: its certificate, its clients' certificates, and new ones on SIGHUP."""

import asyncio
import io
import logging
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from composerd_client import ComposerClient, JobContext, RequestFailed, ServerNotTrusted, ServerUnreachable, Worker, tls

from .conftest import COMPOSER, HALF_SENT, LOOPBACK, WORKER, Serve, Server, until_waiting
from .test_cli import composerd


class Files:
    """Authorities and certificates as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.stranger = trustme.CA()
        self.ca_file = self.write("ca.pem", self.ca.cert_pem.bytes())
        self.issue("server", LOOPBACK)
        self.issue("worker", "w1.workers.example.com")

    def issue(self, name: str, *hosts: str, ca: trustme.CA | None = None) -> None:
        """Write the certificate and key of a name, replacing earlier ones."""
        issued = (ca or self.ca).issue_cert(*hosts)
        self.write(f"{name}.pem", issued.cert_chain_pems[0].bytes())
        self.write(f"{name}.key", issued.private_key_pem.bytes())

    def trust(self, ca: trustme.CA) -> None:
        """Write the certificate of a CA to the file of the client CA."""
        self.write("clients.pem", ca.cert_pem.bytes())

    def write(self, name: str, content: bytes) -> str:
        """Write one of the files."""
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def pair(self, name: str) -> dict[str, Any]:
        """Return the arguments with which a client presents the certificate of a name."""
        return {"cert_file": self.path(f"{name}.pem"), "key_file": self.path(f"{name}.key")}

    @property
    def server_options(self) -> tuple[str, ...]:
        return ("--tls-cert", self.path("server.pem"), "--tls-key", self.path("server.key"))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return certificates of one CA for a server and a worker, and a client CA file with that CA."""
    made = Files(tmp_path)
    made.trust(made.ca)
    return made


async def answers(server: Server, **tls: Any) -> int:
    """Return the status of a listing that is requested over a new connection."""
    try:
        async with ComposerClient(server.url, patience=0, **tls) as composer:
            _ = [job async for job in composer.list(1)]
    except RequestFailed as exc:
        return exc.status
    return 200


async def test_http_where_there_is_tls(serve: Serve, files: Files) -> None:
    """A client of http:// says that the server may have TLS, if it has closed the connection without an answer."""
    server = await serve(*files.server_options)
    async with ComposerClient(server.url.replace("https:", "http:"), patience=0) as composer:
        with pytest.raises(
            ServerUnreachable, match="closed the connection without an answer; write https:// if it has"
        ):
            await composer.workers()


async def test_a_job_over_tls(serve: Serve, files: Files, tmp_path: Path) -> None:
    """Client and worker use TLS with their CA file, and the unix socket beside it stays plain."""
    path = f"unix:{tmp_path / 'composerd.sock'}"
    server = await serve(*files.server_options, "--listen", path)
    assert server.url.startswith(f"https://{LOOPBACK}:")
    worker = Worker(server.url, ca_file=files.ca_file)

    @worker.handler("build")
    async def build(job: JobContext) -> Any:
        await job.upload("big", os.urandom(3_000_000))
        return job.args

    async with ComposerClient(server.url, ca_file=files.ca_file) as composer:
        job = await composer.submit("build", args={"n": 1})
        await worker.run(jobs=1)
        assert (await composer.wait(job.id, 10)).result == {"n": 1}
        artifact = (await composer.artifacts(job.id))[0]
        assert sum([len(part) async for part in composer.read(artifact)]) == 3_000_000
    async with ComposerClient(path) as composer:
        assert (await composer.get(job.id)).state == "finished"


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
async def test_downloads_over_one_connection(serve: Serve, files: Files, size: int) -> None:
    """A connection with TLS is free for the next request as soon as a download of any size is complete."""
    server = await serve(*files.server_options)
    connector = aiohttp.TCPConnector(limit=1, ssl=ssl.create_default_context(cafile=files.ca_file))
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession(server.url, connector=connector) as http,
        ComposerClient(server.url, ca_file=files.ca_file) as composer,
    ):
        job = await composer.submit("build")
        async with http.post(f"{WORKER}/jobs", json={"types": ["build"], "arch": "x"}) as answer:
            attempt = await answer.json()
        async with http.put(attempt["artifact_location"] + "a", data=io.BytesIO(bytes(size))) as answer:
            assert answer.status == 200
        async with http.patch(attempt["location"], json={"result": 1}) as answer:
            assert answer.status == 200
        for _ in range(3):
            async with http.get(f"{COMPOSER}/jobs/{job.id}/artifacts/a") as answer:
                assert await answer.read() == bytes(size)


async def test_a_server_that_is_not_trusted(serve: Serve, files: Files) -> None:
    """A client that does not know the CA reports that, and one that speaks plain HTTP gets no answer."""
    server = await serve(*files.server_options)
    with pytest.raises(ServerNotTrusted, match="its certificate is not trusted"):
        await answers(server)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(server.url.replace("https", "http") + f"{COMPOSER}/jobs")


async def test_a_server_that_is_not_trusted_is_not_asked_again(serve: Serve, files: Files) -> None:
    """A client that is patient reports a certificate that it does not trust at once."""
    server = await serve(*files.server_options)
    async with asyncio.timeout(20), ComposerClient(server.url, patience=300) as composer:
        with pytest.raises(ServerNotTrusted, match="its certificate is not trusted"):
            await composer.workers()


async def test_mutual_tls(serve: Serve, files: Files, tmp_path: Path) -> None:
    """With a client CA, only its certificates are accepted over TCP, and the unix socket needs none."""
    path = f"unix:{tmp_path / 'composerd.sock'}"
    server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"), "--listen", path)
    files.issue("stranger", "w1.workers.example.com", ca=files.stranger)
    assert await answers(server, ca_file=files.ca_file, **files.pair("worker")) == 200
    with pytest.raises(ServerNotTrusted, match="may not trust"):
        await answers(server, ca_file=files.ca_file)
    with pytest.raises(ServerNotTrusted, match="may not trust"):
        await answers(server, ca_file=files.ca_file, **files.pair("stranger"))
    async with ComposerClient(path) as composer:
        assert (await composer.submit("build")).state == "ready"


@pytest.mark.parametrize(
    ("names", "domains", "status"),
    [
        (["w1.workers.example.com"], ["w1.workers.example.com"], 200),
        (["w1.workers.example.com"], ["a.example", "*.workers.example.com"], 200),
        (["other.example", "W1.Workers.example.com"], ["w1.workers.EXAMPLE.com"], 200),
        (["*.workers.example.com"], ["w1.workers.example.com"], 200),
        (["w1.workers.example.com"], ["workers.example.com"], 403),
        (["w1.workers.example.com"], ["*.example.com"], 403),
        (["w1.workers.example.com.evil"], ["w1.workers.example.com"], 403),
        (["127.0.0.1"], ["127.0.0.1"], 403),
    ],
)
async def test_allowed_domains(serve: Serve, files: Files, names: list[str], domains: list[str], status: int) -> None:
    """A client whose certificate has a DNS name in an allowed domain is a worker; others get error 30 on every path."""
    allowed = [word for domain in domains for word in ("--allowed-domains", domain)]
    server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"), *allowed)
    files.issue("client", *names)
    context = ssl.create_default_context(cafile=files.ca_file)
    context.load_cert_chain(files.path("client.pem"), files.path("client.key"))
    answered, sender = await server.request("GET", f"{COMPOSER}/whoami", ssl=context)
    assert answered == status
    if status == 200:
        assert (sender["role"], sender["source"], sender["name"]) == ("worker", "certificate", names[-1].lower())
        assert await answers(server, ca_file=files.ca_file, **files.pair("client")) == 403  # workers list no jobs
    else:
        for path in ("/api/worker/v1/status", "/metrics", "/nothing"):
            answered, body = await server.request("GET", path, ssl=context)
            assert (answered, body["id"]) == (403, "30")
            assert body["details"]["certificate_names"] == [name for name in names if name != "127.0.0.1"]


def served(server: Server, context: ssl.SSLContext) -> bytes:
    """Return the server's certificate on a new connection."""
    with (
        socket.create_connection(server.address) as plain,
        context.wrap_socket(plain, server_hostname=LOOPBACK) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


async def reloaded(server: Server, said: bytes) -> None:
    """Send SIGHUP, and wait for a line of the log about it."""
    before = server.log.count(said)
    server.kill(signal.SIGHUP)

    async def told() -> bool:
        return server.log.count(said) > before

    await server.until(told)


async def test_new_certificates_on_sighup(serve: Serve, files: Files) -> None:
    """After SIGHUP, new connections use the new certificate and CA, and a waiting request still gets its job."""
    server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"))
    context = ssl.create_default_context(cafile=files.ca_file)
    context.load_cert_chain(files.path("worker.pem"), files.path("worker.key"))
    assert server._http is not None
    request = server._http.post(
        server.url + "/api/worker/v1/jobs", json={"types": ["build"], "arch": "x86_64"}, ssl=context
    )
    waiting = asyncio.ensure_future(request)
    await until_waiting(server, 1, ssl=context)
    first = served(server, context)

    successor = trustme.CA()
    files.trust(successor)
    files.issue("server", LOOPBACK)
    files.issue("new", "w2.workers.example.com", ca=successor)
    await reloaded(server, b"reloaded the certificates")

    new = ssl.create_default_context(cafile=files.ca_file)
    new.load_cert_chain(files.path("new.pem"), files.path("new.key"))
    assert served(server, new) != first
    with pytest.raises(ServerNotTrusted, match="may not trust"):
        await answers(server, ca_file=files.ca_file, **files.pair("worker"))
    async with ComposerClient(server.url, ca_file=files.ca_file, **files.pair("new")) as composer:
        await composer.submit("build")
    async with await asyncio.wait_for(waiting, 30) as answer:
        assert answer.status == 201


async def test_a_bad_pair_on_sighup(serve: Serve, files: Files) -> None:
    """After SIGHUP with wrong files, the server keeps the old certificates and logs why."""
    server = await serve(*files.server_options)
    files.write("server.key", b"no key")
    await reloaded(server, b"failed to reload the certificates, the old ones stay in use: tls_cert and tls_key")
    assert await answers(server, ca_file=files.ca_file) == 200
    files.issue("server", LOOPBACK)
    await reloaded(server, b"reloaded the certificates")
    assert await answers(server, ca_file=files.ca_file) == 200


async def test_sighup_without_tls(server: Server) -> None:
    """SIGHUP without TLS changes nothing and is logged."""
    await reloaded(server, b"there are no certificates to reload")
    assert (await server.submit())["state"] == "ready"


async def test_a_drained_server_refuses(serve: Serve, files: Files) -> None:
    """After SIGTERM a new connection is refused at once, while a request is still in progress."""
    server = await serve(*files.server_options, "--drain-timeout", "5s")
    context = ssl.create_default_context(cafile=files.ca_file)
    reader, writer = await asyncio.open_connection(*server.address, ssl=context)
    writer.write(HALF_SENT)
    assert (await reader.readline()).split()[1] == b"100"
    server.kill(signal.SIGTERM)

    async def refuses() -> bool:
        try:
            _, second = await asyncio.open_connection(*server.address)
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it was in the backlog when the server stopped listening
            return False
        second.close()
        return False

    await server.until(refuses, 4)
    assert not reader.at_eof()
    writer.close()
    assert await server.exited() == 0


@pytest.mark.parametrize("broken", ["server.pem", "server.key", "clients.pem", "other key", "password"])
async def test_files_that_are_no_good(serve: Serve, files: Files, broken: str) -> None:
    """Wrong files stop the start with one sentence that names the setting."""
    if broken == "other key":
        files.write("server.key", files.ca.issue_cert(LOOPBACK).private_key_pem.bytes())
    elif broken == "password":
        key = serialization.load_pem_private_key(files.ca.issue_cert("a").private_key_pem.bytes(), None)
        locked = serialization.BestAvailableEncryption(b"secret")
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        files.write("server.key", pem)
    else:
        files.write(broken, b"nothing")
    with pytest.raises(AssertionError) as said:
        await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"))
    text = str(said.value)
    assert ("tls_client_ca" if broken == "clients.pem" else "tls_cert and tls_key") in text
    assert "Traceback" not in text


async def test_the_command_line_over_tls(serve: Serve, files: Files) -> None:
    """The commands take the files from options and the environment, and report what is wrong with them."""
    server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"))
    known: dict[str, Any] = {
        "COMPOSERD_CA_FILE": files.ca_file,
        "COMPOSERD_CERT_FILE": files.path("worker.pem"),
        "COMPOSERD_KEY_FILE": files.path("worker.key"),
    }
    submitted = await composerd("submit", "build", server=server, **known)
    assert submitted.code == 0, submitted.err
    options = [
        "--ca-file",
        files.ca_file,
        "--cert-file",
        files.path("worker.pem"),
        "--key-file",
        files.path("worker.key"),
    ]
    worked = await composerd("worker", "--type", "build", "--once", *options, "--", "true", server=server)
    assert worked.code == 0, worked.err
    assert (await composerd("wait", submitted.out.strip(), *options, server=server)).code == 0

    untrusted = await composerd("jobs", server=server)
    assert (untrusted.code, untrusted.err.count("\n")) == (3, 1)
    assert "its certificate is not trusted" in untrusted.err
    assert "--ca-file" in untrusted.err
    for name in ("--ca-file", "--cert-file"):
        missing = await composerd("jobs", name, "/nowhere.pem", server=server)
        assert (missing.code, missing.err.count("\n")) == (2, 1)
        assert "/nowhere.pem" in missing.err
    half = await composerd("jobs", "--key-file", files.path("worker.key"), server=server)
    assert (half.code, "needs a certificate" in half.err) == (2, True)


@pytest.fixture
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients look at the files for TLS before each request."""
    monkeypatch.setattr(tls, "_LOOK_EVERY", 0.0)


@pytest.mark.usefixtures("looks_at_once")
async def test_renewed_certificates_of_clients(serve: Serve, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """A client uses its new certificate and CA on new connections, and its waiting request goes on."""
    directories = [files.directory / name for name in ("old", "new")]
    authorities = [trustme.CA(), trustme.CA()]
    for directory, authority in zip(directories, authorities, strict=True):
        directory.mkdir()
        made = authority.issue_cert("w1.workers.example.com")
        (directory / "tls.crt").write_bytes(made.cert_chain_pems[0].bytes())
        (directory / "tls.key").write_bytes(made.private_key_pem.bytes())
        (directory / "ca.crt").write_bytes(authority.cert_pem.bytes())
        pair = authority.issue_cert(LOOPBACK)
        (directory / "server.pem").write_bytes(pair.cert_chain_pems[0].bytes() + pair.private_key_pem.bytes())
    current = files.directory / "current"  # as Kubernetes mounts a secret
    current.symlink_to("old")
    own = files.directory / "own"
    own.symlink_to("old")
    server = await serve(
        *("--tls-cert", str(own / "server.pem"), "--tls-key", str(own / "server.pem")),
        *("--tls-client-ca", str(own / "ca.crt")),
    )
    named: dict[str, Any] = {
        "ca_file": current / "ca.crt",
        "cert_file": current / "tls.crt",
        "key_file": current / "tls.key",
    }
    async with ComposerClient(server.url, **named) as composer:
        job = await composer.submit("build")
        waiting = asyncio.ensure_future(composer.get(job.id, 30))
        old = ssl.create_default_context(cafile=str(named["ca_file"]))
        old.load_cert_chain(named["cert_file"], named["key_file"])
        await until_waiting(server, 1, ssl=old)
        _swap(own, "new")
        await reloaded(server, b"reloaded the certificates")
        with pytest.raises(ServerNotTrusted):
            await answers(server, **named)
        with caplog.at_level(logging.INFO, "composerd_client"):
            _swap(current, "new")
            await composer.cancel(job.id)
        assert (await waiting).state == "canceled"
    assert [record.message for record in caplog.records] == ["read the TLS files again, because they have changed"]


def _swap(link: Path, target: str) -> None:
    """Let a symbolic link lead elsewhere, at one moment."""
    made = link.with_name("made")
    made.symlink_to(target)
    made.rename(link)


@pytest.mark.usefixtures("looks_at_once")
def test_a_half_written_pair(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """While only one file of a pair is new, the old pair stays in use, which is logged once, until both are there."""
    watched = tls.TlsFiles(files.ca_file, *files.pair("worker").values())
    before = watched.context
    files.issue("new", "w2.workers.example.com")
    Path(files.path("new.pem")).rename(files.path("worker.pem"))
    assert [watched.context for _ in range(3)] == [before] * 3
    (record,) = caplog.records
    assert record.message.startswith("cannot use the TLS files that have changed, keeping the old ones: cannot load ")
    Path(files.path("worker.key")).unlink()
    assert watched.context is before
    Path(files.path("new.key")).rename(files.path("worker.key"))
    assert watched.context is not before
    assert watched.context is watched.context


async def test_a_connection_that_breaks_is_no_question_of_trust(
    serve: Serve, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """If a server that has accepted a worker's certificate is killed, the worker does not suspect the certificate."""
    server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"))
    worker = Worker(server.url, ca_file=files.ca_file, **files.pair("worker"))
    worker.handler("build")(lambda job: job.args)
    running = asyncio.ensure_future(worker.run())
    async with ComposerClient(server.url, ca_file=files.ca_file, **files.pair("worker")) as composer:
        job = await composer.submit("build")
        await composer.wait(job.id)
    context = ssl.create_default_context(cafile=files.ca_file)
    context.load_cert_chain(files.path("worker.pem"), files.path("worker.key"))
    await until_waiting(server, 1, ssl=context)
    server.kill()

    async def told() -> bool:
        return bool(caplog.records)

    await server.until(told)
    worker.stop()
    await running
    assert "cannot request a job, trying again: " in caplog.text
    assert "trust" not in caplog.text
