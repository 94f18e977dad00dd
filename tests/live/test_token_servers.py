"""The client with token servers that refuse, redirect or never end, and with TLS and proxies on the way to one."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from composerd_client import OAuth, TokenRefused, TokenUnavailable
from composerd_client.credentials import oauth
from composerd_client.credentials import token_server as asking

from .forward_proxy import forwarding
from .test_client_faults import serving
from .test_client_oauth import credentials, issuer
from .token_server import ID, SECRET, TokenServer, token_server

__all__ = ["credentials", "issuer"]


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (400, {"error": "invalid_grant", "error_description": f"no {SECRET}\n"}, "invalid_grant"),
        (401, {"error": "invalid_client"}, 'client_authentication = "post"'),
        (400, {"error": "made_up", "error_description": 7}, "made_up"),
        (404, "not here", "is it the URL of the token endpoint"),
        (200, "<html>", "is it the URL of the token endpoint"),
        (200, {"access_token": "a b"}, "characters that no token has"),
        (200, {"access_token": "a", "token_type": "DPoP"}, "the type DPoP"),
        (200, ["access_token"], "is it the URL of the token endpoint"),
    ],
)
async def test_the_token_server_refuses(issuer: TokenServer, status: int, answer: Any, said: str) -> None:
    """A refusal of the token server is one sentence with its reason, what to do, and no secret."""

    async def hook(_request: web.Request) -> web.StreamResponse:
        return (
            web.Response(status=status, text=answer)
            if isinstance(answer, str)
            else web.json_response(answer, status=status)
        )

    issuer.hook = hook
    credentials = OAuth(issuer.url + "?p=secret", client_id=ID, client_secret=SECRET)
    with pytest.raises(TokenRefused) as raised:
        await credentials.token()
    assert said in str(raised.value)
    assert SECRET not in str(raised.value)
    assert "?p=secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_token_server_that_redirects(issuer: TokenServer) -> None:
    """A redirect is not followed, because the secret would go elsewhere."""
    stolen: list[web.Request] = []

    async def thief(request: web.Request) -> web.StreamResponse:
        stolen.append(request)
        return web.Response()

    async with serving(thief) as elsewhere:
        for status in (301, 302, 303, 307, 308):

            async def redirect(_request: web.Request, status: int = status) -> web.StreamResponse:
                return web.Response(status=status, headers={"Location": f"{elsewhere}/token?secret"})

            issuer.hook = redirect
            with pytest.raises(TokenRefused, match="change the token URL"):
                await OAuth(issuer.url, client_id=ID, client_secret=SECRET).token()
    assert stolen == []


async def test_a_token_server_without_an_end(
    issuer: TokenServer, credentials: OAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token server that answers without an end, or too slowly, does not keep a request for ever."""
    monkeypatch.setattr(asking, "_WITHIN", 0.5)
    monkeypatch.setattr(asking, "_LARGEST_ANSWER", 1000)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.05)
        except ConnectionError:
            return response

    issuer.hook = endless
    with pytest.raises((TokenRefused, TokenUnavailable)):
        await credentials.token()
    monkeypatch.setattr(oauth, "_WAIT_FOR", 0.2)
    monkeypatch.setattr(asking, "_WITHIN", 1.0)
    with pytest.raises(TokenUnavailable, match="has not given a token in time"):
        await OAuth(issuer.url, client_id=ID, client_secret=SECRET).token()


async def test_a_token_server_with_tls(tmp_path: Path) -> None:
    """The certificate of the token server is checked, and a proxy only opens a tunnel, in which the secret is."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "sso.example.com").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    given: dict[str, Any] = {"client_id": ID, "client_secret": SECRET}
    async with token_server(context) as issuer:
        assert issuer.accepts(await OAuth(issuer.url, ca_file=ca_file, **given).token())
        with pytest.raises(TokenUnavailable, match=r"its certificate is not trusted: .*; name the file of its CA"):
            await OAuth(issuer.url, **given).token()
        host, port = issuer.url.split("/")[2].split(":")
        with pytest.raises(TokenUnavailable, match="cannot get a token"):
            await OAuth(f"http://{host}:{port}/token", **given).token()
        async with forwarding((host, int(port))) as proxy:
            told = proxy.url.replace("://", "://me:secret@")
            through = OAuth("https://sso.example.com/token", ca_file=ca_file, proxy=told, **given)
            assert issuer.accepts(await through.token())
            (head,) = proxy.heads
            assert head.startswith("CONNECT sso.example.com:443 ")
            assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in head
            assert b"grant_type" not in proxy.tunneled
            proxy.refusal = "407 Proxy Authentication Required"
            with pytest.raises(TokenUnavailable, match="407"):
                await OAuth("https://sso.example.com/token", ca_file=ca_file, proxy=told, **given).token()
            with pytest.raises(ValueError, match="could read the client secret"):
                OAuth("http://sso.example.com/token", proxy=told, **given)
