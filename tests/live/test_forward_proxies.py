"""Clients that reach the server through a proxy that they were told, or that their environment names."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from composerd.probe import Target
from composerd_client import (
    ComposerClient,
    JobContext,
    ProxyAnswered,
    ProxyUnreachable,
    ServerUnreachable,
    SyncComposerClient,
    Worker,
    transport,
)
from composerd_client.address import Address
from composerd_client.forward_proxy import forward_proxy

from .conftest import COMPOSER, LOOPBACK, Serve, Server
from .forward_proxy import ForwardProxy, forwarding
from .test_cli import composerd
from .test_tls import Files, files

__all__ = ["files"]

NAME = "composerd.test"
"""A name of the server that only the proxy knows."""

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies from the environment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[ForwardProxy]:
    """Run a proxy to a server without TLS."""
    async with forwarding(server.address) as made:
        yield made


async def _work(url: str, **options: Any) -> Any:
    """Submit a job, let a worker run it with an upload, and return the result and the artifact."""
    worker = Worker(url, **options)

    @worker.handler("build")
    async def build(job: JobContext) -> Any:
        await job.progress("half")
        await job.upload("file", b"artifact" * 50_000)
        return job.args

    async with ComposerClient(url, **options) as composer:
        job = await composer.submit("build", args="secret args")
        await worker.run(jobs=1)
        result = (await composer.wait(job.id, 10)).result
        artifact = (await composer.artifacts(job.id))[0]
        return result, b"".join([part async for part in composer.read(artifact)])


async def test_a_proxy_of_the_environment(proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is submitted, run and downloaded through `http_proxy`, with the user and the password of its URL."""
    monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://user:p%C3%A4ss@"))
    assert await _work(f"http://{NAME}:8700") == ("secret args", b"artifact" * 50_000)
    login = base64.b64encode("user:päss".encode()).decode()
    assert all(f"http://{NAME}:8700/api/" in head for head in proxy.heads)
    assert all(f"Proxy-Authorization: Basic {login}\r\n" in head for head in proxy.heads)


async def test_a_tunnel(serve: Serve, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """With https the proxy gets a CONNECT with the login, and sees neither args nor tokens nor the paths."""
    files.issue("server", NAME)
    server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"))
    async with forwarding(server.address) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:secret@"))
        result = await _work(f"https://{NAME}:8700", ca_file=files.ca_file, **files.pair("worker"))
        assert result == ("secret args", b"artifact" * 50_000)
        assert all(head.startswith(f"CONNECT {NAME}:8700 HTTP/1.1\r\n") for head in proxy.heads)
        assert all("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in head for head in proxy.heads)
        assert len(proxy.heads) < 10  # tunnels are used again
        assert b"secret" not in proxy.tunneled
        assert b"/api/" not in proxy.tunneled


async def test_the_option_of_commands(server: Server, proxy: ForwardProxy) -> None:
    """`--proxy` and `COMPOSERD_PROXY` hold also for this machine, and an empty option overrides the environment."""
    assert (await composerd("jobs", "--proxy", proxy.url, server=server)).code == 0
    assert (await composerd("jobs", server=server, COMPOSERD_PROXY=proxy.url)).code == 0
    assert len(proxy.heads) == 2
    gone = "http://127.0.0.1:1"
    assert (await composerd("jobs", "--proxy", "", server=server, COMPOSERD_PROXY=gone)).code == 0
    assert (await composerd("jobs", server=server, http_proxy=gone)).code == 0
    refused = await composerd("jobs", server=server, COMPOSERD_PROXY="http://me:secret@127.0.0.1:1")
    assert refused.code == 3
    assert "cannot connect to the proxy http://127.0.0.1:1: Connection refused" in refused.err
    assert "--proxy" in refused.err
    assert "secret" not in refused.err


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ("407 Proxy Authentication Required", r"the proxy {} \(Squid\) wants a login \(407\): write http://USER:"),
        ("403 Forbidden", r"the proxy {} \(Squid\) does not connect to composerd.test:8700 \(403\): allow CONNECT"),
        ("503 Service Unavailable", r"the proxy {} \(Squid\) cannot connect to composerd.test:8700 \(503\): is `comp"),
    ],
)
async def test_a_refused_tunnel(proxy: ForwardProxy, refusal: str, says: str) -> None:
    """A proxy that opens no tunnel is named with its status and what to change there, and the request was not sent."""
    proxy.refusal = refusal
    async with ComposerClient(f"https://{NAME}:8700", patience=0, proxy=proxy.url) as composer:
        with pytest.raises(ProxyUnreachable, match=says.format(proxy.url)) as raised:
            await composer.get("x")
    assert not raised.value.sent


async def test_a_refusal_without_a_tunnel(proxy: ForwardProxy) -> None:
    """A proxy that wants a login for http is told apart from composerd, and the error says where to write the login."""
    proxy.refusal = "407 Proxy Authentication Required"
    async with ComposerClient(f"http://{NAME}:8700", patience=0, proxy=proxy.url) as composer:
        with pytest.raises(ProxyAnswered, match=r"407 from a proxy \(Squid\), not from composerd: it wants a login"):
            await composer.get("x")


async def test_a_silent_proxy(proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that does not answer a CONNECT is given up after the time for a connection."""
    monkeypatch.setattr(transport, "_CONNECT_WITHIN", 0.2)
    proxy.silent = True
    async with ComposerClient(f"https://{NAME}:8700", patience=0, proxy=proxy.url) as composer:
        with pytest.raises(ServerUnreachable, match=r"8700 cannot be reached through the proxy .*: no answer in time"):
            await composer.get("x")


async def test_a_proxy_without_an_address(server: Server) -> None:
    """If the name of the proxy is unknown, the error names the proxy, not the server."""
    async with ComposerClient(server.url, patience=0, proxy="http://nowhere.invalid:3128") as composer:
        with pytest.raises(ProxyUnreachable, match=r"cannot connect to the proxy http://nowhere\.invalid:3128: "):
            await composer.get("x")


@pytest.mark.parametrize("way", ["plain", "tls", "tunnel"])
async def test_options_of_sockets(serve: Serve, files: Files, way: str) -> None:
    """The kernel probes each connection, with and without TLS and a proxy, and ends one that acknowledges nothing."""
    files.issue("server", LOOPBACK)
    server = await serve(*(() if way == "plain" else files.server_options))
    async with forwarding(server.address) as proxy:
        through = proxy.url if way == "tunnel" else ""
        async with ComposerClient(server.url, ca_file=files.ca_file, proxy=through) as composer:
            await composer.workers()
            session = composer._connection._transport._pooled  # type: ignore[union-attr]
            ((protocol, _),) = next(iter(session.connector._conns.values()))  # type: ignore[union-attr]
            made = protocol.transport.get_extra_info("socket")  # type: ignore[union-attr]
            assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
            assert [made.getsockopt(socket.IPPROTO_TCP, one) for one in options] == [15, 5, 60_000]


def proxy_of(server: str, **variables: str) -> str | None:
    """Return the URL of the proxy for a server in an environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        found = forward_proxy(None, Address(server))
    return found and found.url


@pytest.mark.parametrize(
    ("server", "variables", "proxy"),
    [
        ("http://a.test", {"http_proxy": "http://p:1"}, "http://p:1"),
        ("http://a.test", {"http_proxy": "p:3128/"}, "http://p:3128"),
        ("http://a.test", {"http_proxy": "http://u:p@p"}, "http://p"),
        ("http://a.test", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://a.test", {"HTTP_PROXY": "http://p:1", "http_proxy": "http://q:1"}, "http://q:1"),
        ("http://a.test", {"HTTP_PROXY": "http://p:1", "http_proxy": ""}, None),
        ("http://a.test", {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, None),
        ("http://a.test", {"http_proxy": "http://p:1", "REQUEST_METHOD": "GET"}, "http://p:1"),
        ("http://a.test", {"https_proxy": "http://p:1"}, None),
        ("https://a.test", {"http_proxy": "http://p:1"}, None),
        ("https://a.test", {"https_proxy": "http://p:1", "all_proxy": "http://q:1"}, "http://p:1"),
        ("https://a.test", {"all_proxy": "http://q:1"}, "http://q:1"),
        ("https://a.test", {"HTTPS_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http://p:1"),
        ("unix:/run/x", {"all_proxy": "http://q:1"}, None),
        ("http://localhost:1", {"all_proxy": "http://q:1"}, None),
        ("http://127.3.2.1", {"all_proxy": "http://q:1"}, None),
        ("http://[::1]:1", {"all_proxy": "http://q:1"}, None),
    ],
)
def test_which_proxy_of_the_environment(server: str, variables: dict[str, str], proxy: str | None) -> None:
    """The variables are those of curl, in small letters first, and never hold for this machine."""
    assert proxy_of(server, **variables) == proxy


@pytest.mark.parametrize(
    ("exceptions", "server", "direct"),
    [
        ("*", "http://a.test", True),
        ("a.test", "http://a.test", True),
        ("A.Test", "http://a.TEST.", True),
        ("test", "http://a.test", True),
        (".test", "http://a.test", True),
        ("*.test", "http://a.test", True),
        (".a.test", "http://a.test", True),
        ("b.test, a.test", "http://a.test", True),
        ("b.test a.test", "http://a.test", True),
        ("est", "http://a.test", False),
        ("b.a.test", "http://a.test", False),
        ("a.test:8700", "http://a.test:8700", True),
        ("a.test:8700", "http://a.test", False),
        ("10.1.2.3", "http://10.1.2.3", True),
        ("10.1.2.3:80", "http://10.1.2.3", True),
        ("10.1.2.3:81", "http://10.1.2.3", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.1/8", "http://10.1.2.3", True),
        ("10.0.0.0/16", "http://10.1.2.3", False),
        ("10.0.0.0/8", "http://a.test", False),
        ("2001:db8::/32", "http://[2001:db8::1]", True),
        ("[2001:db8::1]:80", "http://[2001:db8::1]", True),
        ("2001:db8::1", "http://[2001:db8::1]:8700", True),
        ("", "http://a.test", False),
        (", .", "http://a.test", False),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_exceptions(exceptions: str, server: str, direct: bool, variable: str) -> None:
    """`no_proxy` has names, domains, addresses, networks and ports, between commas or spaces, or `*` for all."""
    found = proxy_of(server, http_proxy="http://p:1", **{variable: exceptions})
    assert found == (None if direct else "http://p:1")


@pytest.mark.parametrize(
    "text", ["socks5://me:secret@p:1", "https://me:secret@p:1", "http://p:x", "http://", "p:1/path"]
)
def test_a_proxy_that_cannot_be_used(text: str) -> None:
    """The error names the variable or the argument and what it may be, and has neither user nor password."""
    with pytest.raises(
        ValueError, match=r"^http_proxy: '.*' is not the URL of an HTTP proxy: write http://HOST:PORT or"
    ) as raised:
        proxy_of("http://a.test", http_proxy=text)
    assert "secret" not in str(raised.value)
    with pytest.raises(ValueError, match=r"^proxy: "):
        ComposerClient("http://a.test", proxy=text)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_probe_through_a_proxy(serve: Serve, files: Files, scheme: str) -> None:
    """A probe reaches the server through the proxy that it was told, and names one that refuses."""
    files.issue("server", NAME)
    server = await serve(*(files.server_options if scheme == "https" else ()))
    async with forwarding(server.address) as proxy:
        told = proxy.url.replace("://", "://user:secret@")
        target = Target(f"{scheme}://{NAME}:8700", {"proxy": told, "ca_file": files.ca_file})
        assert (await target.call("GET", f"{COMPOSER}/jobs")).status == 200
        (head,) = proxy.heads
        start = f"CONNECT {NAME}:8700 " if scheme == "https" else f"GET http://{NAME}:8700{COMPOSER}/jobs "
        assert head.startswith(start)
        assert "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n" in head
        proxy.refusal = "403 Forbidden"
        if scheme == "https":
            with pytest.raises(ServerUnreachable, match=rf"through the proxy {proxy.url}: .* \(403\)"):
                await target.call("GET", f"{COMPOSER}/jobs")
        else:
            assert (await target.call("GET", f"{COMPOSER}/jobs")).status == 403


async def test_a_sync_client_and_a_proxy(proxy: ForwardProxy) -> None:
    """The client without await takes a proxy too."""

    def submitted() -> str:
        with SyncComposerClient(f"http://{NAME}:8700", proxy=proxy.url) as composer:
            return composer.submit("build").type

    assert await asyncio.to_thread(submitted) == "build"
    assert proxy.heads
