"""The client with tokens of a token server: how it asks for them, when, and what it does while there are none."""

import asyncio
import os
import ssl
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from composerd_client import (
    ComposerClient,
    JobContext,
    OAuth,
    RequestFailed,
    SyncComposerClient,
    TokenRefused,
    TokenUnavailable,
    Worker,
)
from composerd_client.credentials import oauth
from composerd_client.credentials import token_server as asking

from .conftest import Server
from .forward_proxy import forwarding
from .gate import Gate, gate
from .test_cli import composerd
from .test_client_faults import serving
from .test_client_tokens import until
from .token_server import ID, SECRET, TokenServer, token_server


@pytest.fixture
async def issuer() -> AsyncIterator[TokenServer]:
    """Return a token server."""
    async with token_server() as found:
        yield found


@pytest.fixture
async def guarded(server: Server, issuer: TokenServer) -> AsyncIterator[Gate]:
    """Return a gate before the server that accepts the valid tokens of the token server."""
    async with gate(server) as found:
        found.accepts = issuer.accepts
        yield found


@pytest.fixture
def credentials(issuer: TokenServer) -> OAuth:
    """Return the credentials of the client that the token server knows."""
    return OAuth(issuer.url, client_id=ID, client_secret=SECRET)


async def test_client_credentials(issuer: TokenServer, tmp_path: Path) -> None:
    """The id and the secret are sent as RFC 6749 wants them, in the header or in the form, and all that is asked."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    assert issuer.accepts(await OAuth(issuer.url, client_id=ID, client_secret=SECRET).token())
    asked: dict[str, Any] = {"scope": "a b", "audience": "https://composer", "resource": "urn:x"}
    in_form = OAuth(issuer.url, client_id=ID, client_secret_file=file, client_authentication="post", **asked)
    assert issuer.accepts(await in_form.token())
    grant = {"grant_type": "client_credentials"}
    basic, post = issuer.requests
    assert basic == {**grant, "basic": "worker+1:s%3Acr%2Bt%26%2F%C3%A9"}
    assert post == {**grant, "client_id": ID, "client_secret": SECRET, **asked}


async def test_refresh_token(issuer: TokenServer, tmp_path: Path) -> None:
    """A refresh token is sent with the id of the client, and with its secret if it has one."""
    file = tmp_path / "refresh"
    file.write_text("refresh-0")
    assert issuer.accepts(await OAuth(issuer.url, client_id="cli", refresh_token_file=file).token())
    assert issuer.accepts(await OAuth(issuer.url, refresh_token="refresh-0").token())
    with_secret = OAuth(issuer.url, client_id=ID, client_secret=SECRET, refresh_token="refresh-0")
    assert issuer.accepts(await with_secret.token())
    grant = {"grant_type": "refresh_token", "refresh_token": "refresh-0"}
    assert issuer.requests[0] == {**grant, "client_id": "cli"}
    assert issuer.requests[1] == grant
    assert issuer.requests[2].keys() == {*grant, "basic"}


def _names(directory: Path) -> set[str]:
    return {one.name for one in directory.iterdir()}


async def _renew(credentials: OAuth) -> None:
    """Let the server refuse the token, and accept the next one."""
    assert await credentials.renewed(await credentials.token())
    credentials.accepted("")


async def test_a_new_refresh_token_is_kept(
    issuer: TokenServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The new refresh token replaces the one in the file; without a file it is kept in memory."""
    issuer.rotates = True
    file = tmp_path / "refresh"
    file.write_text("refresh-0\n")
    file.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(file)
    credentials = OAuth(issuer.url, refresh_token_file=link)
    for number in (1, 2):
        await _renew(credentials)
        issuer.revoke()
        assert file.read_text() == f"{issuer.refresh_token}\n", number
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert _names(tmp_path) == {"link", "refresh"}

    file.write_text("a-new-login")
    issuer.refresh_token = "a-new-login"  # of a test
    await _renew(credentials)
    assert file.read_text() == f"{issuer.refresh_token}\n"

    in_memory = OAuth(issuer.url, refresh_token=issuer.refresh_token)
    await _renew(in_memory)
    await _renew(in_memory)
    assert caplog.messages == []


async def test_a_refresh_token_that_cannot_be_written(
    issuer: TokenServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file cannot be written, the new refresh token is kept in memory, and the log says so."""
    issuer.rotates = True
    file = tmp_path / "refresh"
    file.write_text("refresh-0")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("composerd_client.private_files.os.fsync", full)
    credentials = OAuth(issuer.url, refresh_token_file=file)
    for _ in range(3):
        await _renew(credentials)
        issuer.revoke()
    assert file.read_text() == "refresh-0"
    assert _names(tmp_path) == {"refresh"}
    assert all("No space left on device" in one for one in caplog.messages)
    assert caplog.messages


async def test_processes_that_share_a_refresh_token(issuer: TokenServer, tmp_path: Path) -> None:
    """A refresh token is used by one process at a time, and each reads what another has written."""
    issuer.rotates = True
    file = tmp_path / "refresh"
    file.write_text("refresh-0")
    several = [OAuth(issuer.url, refresh_token_file=file) for _ in range(5)]
    tokens = await asyncio.gather(*(one.token() for one in several))
    assert len(set(tokens)) == 5
    assert len(issuer.requests) == 5


async def test_one_fetch_for_all(guarded: Gate, issuer: TokenServer, credentials: OAuth) -> None:
    """Clients that share credentials, in several event loops, fetch one token, and one after it was revoked."""

    def use() -> str:
        with SyncComposerClient(guarded.url, credentials=credentials) as composer:
            return composer.whoami().role

    async def all_of_them() -> None:
        async with ComposerClient(guarded.url, credentials=credentials) as composer:
            roles = await asyncio.gather(
                *(composer.whoami() for _ in range(20)), *(asyncio.to_thread(use) for _ in range(3))
            )
        assert len(roles) == 23

    await all_of_them()
    assert len(issuer.requests) == 1
    assert guarded.refused == []
    issuer.revoke()
    await all_of_them()
    assert len(issuer.requests) == 2


async def test_a_token_is_renewed_ahead_of_its_end(guarded: Gate, issuer: TokenServer, credentials: OAuth) -> None:
    """Before a token expires, a new one is fetched, while requests go on with the old one; none is refused."""
    issuer.lifetime = 1.0
    async with ComposerClient(guarded.url, credentials=credentials) as composer:
        until_then = time.monotonic() + 2.5
        while time.monotonic() < until_then:
            await composer.whoami()
            await asyncio.sleep(0.02)
    assert guarded.refused == []
    assert 3 <= len(issuer.requests) <= 5


async def test_the_token_server_is_away(
    guarded: Gate, issuer: TokenServer, credentials: OAuth, caplog: pytest.LogCaptureFixture
) -> None:
    """While the token server is away, the known token is used as long as it lasts; after that, patience counts."""
    issuer.lifetime = 1.5
    away = True

    async def hook(_request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=503) if away else None

    async with ComposerClient(guarded.url, patience=0, credentials=credentials) as composer:
        await composer.whoami()
        ends = issuer.issued[guarded.passed[0][0]]
        issuer.hook = hook
        while time.monotonic() < ends - 0.2:
            await composer.whoami()
            await asyncio.sleep(0.02)
        assert len(issuer.requests) > 1
        (line,) = caplog.messages
        assert "cannot renew the token, which is valid for" in line
        await asyncio.sleep(max(0.0, ends - time.monotonic()))
        with pytest.raises(TokenUnavailable, match="it answers 503") as raised:
            await composer.whoami()
        assert not raised.value.sent
    async with ComposerClient(guarded.url, patience=60, credentials=credentials) as composer:
        asking_again = asyncio.create_task(composer.whoami())
        count = len(issuer.requests)
        await until(lambda: len(issuer.requests) > count)
        away = False
        await asking_again
    assert guarded.refused == []


Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


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


async def test_a_token_that_the_server_refuses(guarded: Gate, issuer: TokenServer, credentials: OAuth) -> None:
    """If the server refuses every token, the client asks for another one once, and not again at every request."""
    guarded.accepts = lambda _token: False
    async with ComposerClient(guarded.url, patience=60, credentials=credentials) as composer:
        for _ in range(5):
            with pytest.raises(RequestFailed) as raised:
                await composer.whoami()
            assert raised.value.status == 401
    assert len(issuer.requests) == 2


@pytest.mark.parametrize("lifetime", [None, "300", "soon", -1, 10**400])
async def test_how_long_a_token_is_valid(guarded: Gate, issuer: TokenServer, credentials: OAuth, lifetime: Any) -> None:
    """Without a usable `expires_in` a token is used until it is refused."""

    async def hook(_request: web.Request) -> web.StreamResponse:
        issuer.issued["a"] = float("inf")
        return web.json_response({"access_token": "a", **({} if lifetime is None else {"expires_in": lifetime})})

    issuer.hook = hook
    async with ComposerClient(guarded.url, credentials=credentials) as composer:
        await composer.whoami()
        await composer.whoami()
    assert len(issuer.requests) == 1


async def test_a_worker_outlives_its_tokens(
    server: Server, guarded: Gate, issuer: TokenServer, credentials: OAuth, tmp_path: Path
) -> None:
    """A job goes on over many lives of a token, and while the token server refuses; its files and its result arrive."""
    issuer.lifetime = 1.0
    worker = Worker(guarded.url, arch="x86_64", credentials=credentials)
    (tmp_path / "image").write_bytes(os.urandom(500_000))

    @worker.handler("build")
    async def build(job: JobContext) -> str:
        for number in range(3):
            await asyncio.sleep(1.0)
            await job.upload(f"image-{number}", tmp_path / "image")
            await job.progress({"done": number})
        issuer.revoke()
        issuer.hook = refuse
        return "built"

    refusals = 0

    async def refuse(_request: web.Request) -> web.StreamResponse | None:
        nonlocal refusals
        refusals += 1
        return web.json_response({"error": "invalid_client"}, status=401) if refusals <= 2 else None

    job = await server.submit()
    await worker.run(jobs=1)
    ended = await server.job(job["id"])
    assert (ended["state"], ended["result"]) == ("finished", "built")
    assert refusals > 2
    assert len(issuer.requests) > 3


@pytest.mark.parametrize(
    ("url", "given", "said"),
    [
        ("http://sso.example.com/token", {}, "could read the client secret"),
        ("ftp://sso.example.com/token", {}, "write https://HOST/PATH"),
        ("https://a:b@sso.example.com/token", {}, "no user, no password"),
        ("https://sso.example.com/token#x", {}, "no fragment"),
        ("https://sso.example.com/token", {"client_id": ""}, "the client id that belongs|needs a client id"),
        ("https://sso.example.com/token", {"client_secret": ""}, "needs a client id and a client secret"),
        ("https://sso.example.com/token", {"client_authentication": "jwt"}, "basic or post"),
        ("https://sso.example.com/token", {"client_secret_file": "/nowhere"}, "/nowhere cannot be read"),
        ("https://sso.example.com/token", {"refresh_token_file": "/nowhere"}, "/nowhere cannot be read"),
        ("https://sso.example.com/token", {"ca_file": "/nowhere"}, "/nowhere"),
    ],
)
def test_wrong_settings(url: str, given: dict[str, Any], said: str) -> None:
    """Settings that cannot work are refused at once, in a sentence without the secret."""
    with pytest.raises(ValueError, match=said) as raised:
        OAuth(url, **{"client_id": ID, "client_secret": SECRET, **given})
    assert SECRET not in str(raised.value)


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


async def test_a_worker_whose_token_server_refuses_or_is_away(server: Server, issuer: TokenServer) -> None:
    """A worker ends if the token server refuses its secret from the start, and waits for one that is away."""
    away = True

    async def hook(_request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=502) if away else None

    environ: dict[str, Any] = {
        "COMPOSERD_OAUTH_TOKEN_URL": issuer.url,
        "COMPOSERD_OAUTH_CLIENT_ID": ID,
        "COMPOSERD_OAUTH_CLIENT_SECRET": "wrong",
    }
    given = ("worker", "--type", "build", "--once", "--", "true")
    ended = await composerd(*given, server=server, **environ)
    assert (ended.code, "invalid_client" in ended.err) == (1, True), ended
    issuer.hook = hook
    job = await server.submit()
    count = len(issuer.requests)
    environ["COMPOSERD_OAUTH_CLIENT_SECRET"] = SECRET
    running = asyncio.create_task(composerd(*given, server=server, **environ))
    await until(lambda: len(issuer.requests) >= count + 2)
    assert not running.done()
    away = False
    ended = await running
    assert (ended.code, "it answers 502" in ended.err) == (0, True), ended
    assert (await server.job(job["id"]))["state"] == "finished"
    assert ended.err.count("it answers 502") == 1
    assert SECRET not in ended.err


_TABLE = "Who the user is"
_ASKED = "COMPOSERD_OAUTH_SCOPE, COMPOSERD_OAUTH_AUDIENCE, COMPOSERD_OAUTH_RESOURCE"


@pytest.mark.row(_TABLE, "COMPOSERD_OAUTH_TOKEN_URL")
@pytest.mark.row(_TABLE, "COMPOSERD_OAUTH_CLIENT_ID")
@pytest.mark.row(_TABLE, "COMPOSERD_OAUTH_CLIENT_SECRET_FILE")
@pytest.mark.row(_TABLE, "COMPOSERD_OAUTH_CLIENT_SECRET")
@pytest.mark.row(_TABLE, "COMPOSERD_OAUTH_REFRESH_TOKEN_FILE")
@pytest.mark.row(_TABLE, "COMPOSERD_OAUTH_REFRESH_TOKEN")
@pytest.mark.row(_TABLE, _ASKED)
@pytest.mark.row(_TABLE, "COMPOSERD_OAUTH_CLIENT_AUTHENTICATION")
@pytest.mark.row(_TABLE, "COMPOSERD_OAUTH_CA_FILE")
async def test_settings_of_the_environment(server: Server, tmp_path: Path) -> None:
    """A command takes each setting of a token server from the environment, and asks for its token with them."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "refresh").write_text("refresh-0")
    async with token_server(context) as issuer:

        async def asked(**settings: str) -> dict[str, str]:
            """Return the form that a command sends to the token server."""
            environ: dict[str, Any] = {f"COMPOSERD_OAUTH_{name}": value for name, value in settings.items()}
            environ["COMPOSERD_OAUTH_TOKEN_URL"] = issuer.url
            ended = await composerd("jobs", server=server, **environ)
            assert ended.code == (0 if "CA_FILE" in settings else 3), ended
            return dict(issuer.requests[-1]) if issuer.requests else {}

        assert await asked(CLIENT_ID=ID, CLIENT_SECRET=SECRET) == {}
        trust = str(tmp_path / "ca.pem")
        wanted = {"SCOPE": "a b", "AUDIENCE": "https://composer", "RESOURCE": "urn:x"}
        form = await asked(CLIENT_ID=ID, CLIENT_SECRET=SECRET, CLIENT_AUTHENTICATION="post", CA_FILE=trust, **wanted)
        assert {name: form[name] for name in ("scope", "audience", "resource", "client_secret")} == {
            "scope": "a b",
            "audience": "https://composer",
            "resource": "urn:x",
            "client_secret": SECRET,
        }
        form = await asked(CLIENT_ID=ID, CLIENT_SECRET_FILE=str(tmp_path / "secret"), CA_FILE=trust)
        assert (form["grant_type"], "basic" in form) == ("client_credentials", True)
        for given in ({"REFRESH_TOKEN": "refresh-0"}, {"REFRESH_TOKEN_FILE": str(tmp_path / "refresh")}):
            form = await asked(CLIENT_ID="cli", CA_FILE=trust, **given)
            assert form == {"grant_type": "refresh_token", "refresh_token": "refresh-0", "client_id": "cli"}
