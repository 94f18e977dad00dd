"""The client with tokens of a token server: how it asks for them, when, and what it does while there are none."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
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
    TokenUnavailable,
    Worker,
)

from .conftest import Server
from .gate import Gate, gate
from .test_cli import composerd
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
