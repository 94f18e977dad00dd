"""Servers that get the token of a client and servers that do not, and refusals that are not about the token."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from composerd_client import (
    ComposerClient,
    Credentials,
    ProxyAnswered,
    RequestFailed,
    ServerUnreachable,
    Token,
    TokenFile,
    Worker,
)
from composerd_protocol.bearer_tokens import new_token

from ..tokens import new
from .conftest import COMPOSER, NOBODY, WORKER, Serve, Server
from .forward_proxy import forwarding
from .gate import refusal
from .http_relay import relaying
from .test_cli import composerd
from .test_client_faults import about, answered, serving
from .test_client_tokens import FIRST


async def test_a_quota_that_has_room_later(server: Server) -> None:
    """A submission over a quota is sent again after `Retry-After`; one that no wait helps fails at once."""
    asked: list[float] = []
    headers = {"Retry-After": "1"}

    async def once(request: web.Request) -> web.StreamResponse | None:
        if request.method == "POST" and len(asked) < 1:
            asked.append(asyncio.get_running_loop().time())
            return refusal(429, 45, headers)
        return None

    async with relaying(server.url) as relay:
        relay.hook = once
        async with ComposerClient(relay.url) as composer:
            await composer.submit("build")
            assert asyncio.get_running_loop().time() - asked.pop() >= 1.0
        ended = await composerd("submit", "build", "--server", relay.url)
        assert (ended.code, ended.err) == (0, "")
        asked.clear()
        headers["Retry-After"] = "3600"
        async with ComposerClient(relay.url, patience=1) as composer:
            with pytest.raises(RequestFailed) as raised:
                await composer.submit("build")
            assert raised.value.number == 45

        async def never(_request: web.Request) -> web.StreamResponse:
            return refusal(403, 46)

        relay.hook = never
        ended = await composerd("submit", "build", "--server", relay.url)
        assert ended.code == 1
        assert "can raise this quota" in ended.err


async def test_an_upload_over_a_quota(server: Server) -> None:
    """An upload over a quota that has room later is sent again after the time that the error says."""
    asked: list[float] = []

    async def once(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PUT":
            return None
        asked.append(asyncio.get_running_loop().time())
        return refusal(429, 45, details={"quota": "artifact_bytes", "retry_after": 1}) if len(asked) == 1 else None

    async with relaying(server.url) as relay:
        relay.hook = once
        worker = Worker(relay.url, arch="x86_64")
        worker.handler("build")(lambda job: job.sync.upload("log.txt", b"hello"))
        job = await server.submit()
        await worker.run(jobs=1)
    assert (await server.job(job["id"]))["state"] == "finished"
    assert asked[1] - asked[0] >= 1.0


async def test_a_proxy_that_wants_a_login(server: Server) -> None:
    """A page of a proxy with 401, 403, 407 or 429 is no refusal of composerd: it says what to change at the proxy."""
    async with relaying(server.url) as relay:
        for status in (401, 403, 407, 429):

            async def page(_request: web.Request, status: int = status) -> web.StreamResponse:
                return relay.page(status)

            relay.hook = page
            async with ComposerClient(relay.url, patience=0, credentials=Token(FIRST)) as composer:
                with pytest.raises(ProxyAnswered, match=f"{status} from a proxy"):
                    await composer.whoami()
            asked = iter([relay.page(status)])

            async def once(_request: web.Request, asked: Iterator[web.Response] = asked) -> web.StreamResponse | None:
                return next(asked, None)

            relay.hook = once
            async with ComposerClient(relay.url, patience=30, credentials=Token(FIRST)) as composer:
                assert (await composer.whoami()).role == "admin"  # it was an outage


async def test_a_proxy_that_takes_the_token_away(serve: Serve, tmp_path: Path) -> None:
    """A user whose token has not arrived is told so, and not to name a token."""
    file = tmp_path / "token"
    file.write_text(new(tmp_path / "tokens", "ci", "submitter"))
    server = await serve("--tokens", str(tmp_path / "tokens"))
    refused = "composerd: Not authenticated (problem: there are no credentials); "
    ended = await composerd("whoami", "--server", server.url)
    assert ended.err == f"{refused}name a token that it knows: --token-file, COMPOSERD_TOKEN or `composerd login`\n"
    async with relaying(server.url) as relay:  # passes on no Authorization
        ended = await composerd("whoami", "--server", relay.url, "--token-file", str(file))
    taken = "a token was sent, so a proxy on the way has taken it away: let it pass on the header Authorization"
    assert (ended.code, ended.err) == (1, f"{refused}{taken}\n")


async def test_another_origin_gets_no_token() -> None:
    """A redirect to another origin is not followed, nor is a location there used, with or without a token."""
    stolen: list[web.Request] = []

    async def thief(request: web.Request) -> web.StreamResponse:
        stolen.append(request)
        return answered(about("Job", request.path))

    async with serving(thief) as elsewhere:
        for status in (301, 302, 303, 307, 308):

            async def redirect(_request: web.Request, status: int = status) -> web.StreamResponse:
                return web.Response(status=status, headers={"Location": f"{elsewhere}{COMPOSER}/jobs"})

            async with (
                serving(redirect) as hostile,
                ComposerClient(hostile, patience=0, credentials=Token(FIRST)) as composer,
            ):
                with pytest.raises(ProxyAnswered):
                    await composer.get(NOBODY)
                with pytest.raises(ProxyAnswered):
                    await composer.submit("build")

        for location in (f"{elsewhere}{WORKER}/jobs/{NOBODY}", f"//{elsewhere.partition('//')[2]}/{NOBODY}"):

            async def assign(request: web.Request, location: str = location) -> web.StreamResponse:
                if request.method == "POST":
                    job = {"type": "build", "location": location, "artifact_location": f"{location}/artifacts/"}
                    return answered(about("RequestJob", request.path, NOBODY, **job), 201)
                return answered(status=204)

            async with serving(assign) as hostile:
                worker = Worker(hostile, credentials=Token(FIRST))
                worker.handler("build")(lambda _job: None)
                running = asyncio.create_task(worker.run(jobs=1))
                await asyncio.wait([running], timeout=0.5)
                running.cancel()
                await asyncio.wait([running])
    assert stolen == []


@pytest.mark.parametrize(
    ("server", "proxy", "said"),
    [
        ("http://composer.example.com", None, "anybody on the way to http://composer.example.com"),
        ("http://10.0.0.1:8700", "", "--insecure-http"),
        ("http://127.0.0.1:8700", "http://127.0.0.1:3128", "the proxy http://127.0.0.1:3128 could read the token"),
        ("http://me:secret@127.0.0.1:8700", None, "has a login"),
    ],
)
def test_where_no_token_is_sent(server: str, proxy: str | None, said: str) -> None:
    """A token does not go over plain HTTP, unless it stays on this machine or the user has agreed."""
    with pytest.raises(ValueError, match=said) as raised:
        ComposerClient(server, proxy=proxy, credentials=Token(FIRST))
    assert "secret" not in str(raised.value)
    if "login" not in said:
        ComposerClient(server, proxy=proxy, credentials=Token(FIRST, insecure_http=True))


async def test_the_login_of_a_proxy_in_front_is_not_shown() -> None:
    """A user and a password in the URL of the server are in no message, also if the URL is wrong."""
    for url in ("http://me:secret@127.0.0.1:9/ci", "ftp://me:secret@127.0.0.1", "http://me:secret@127.0.0.1:9/?x"):
        ended = await composerd("jobs", "--server", url)
        assert ended.code in (2, 3)
        assert "127.0.0.1" in ended.err
        assert "secret" not in ended.err
    assert Worker("http://me:secret@127.0.0.1:9/ci").server == "http://127.0.0.1:9/ci"


@pytest.mark.parametrize("server", ["https://composer.example.com", "http://[::1]:1", "http://localhost:1", "unix:/x"])
def test_where_a_token_is_sent(server: str) -> None:
    """A token goes over TLS, a unix socket, and to this machine."""
    ComposerClient(server, credentials=Token(FIRST))


async def test_a_proxy_of_the_environment_does_not_get_the_token(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a tunnel the proxy sees no token; without one, the client refuses to send it."""
    async with forwarding(server.address) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        async with ComposerClient("https://composer.example.com", patience=0, credentials=Token(FIRST)) as composer:
            with pytest.raises(ServerUnreachable):
                await composer.whoami()
        assert proxy.heads
        assert FIRST not in "".join(proxy.heads)
        with pytest.raises(ValueError, match="could read the token"):
            ComposerClient("http://composer.example.com", credentials=Token(FIRST))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"a b", "characters"), (b"a\nb", "more than one line"), (b"\xff", "is not text")],
)
def test_a_file_without_a_token(tmp_path: Path, content: bytes, said: str) -> None:
    """A file that has no token is refused at once, with its name."""
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        TokenFile(file)
    assert str(file) in str(raised.value)
    with pytest.raises(ValueError, match="cannot be read"):
        TokenFile(tmp_path / "nothing")
    (tmp_path / "large").write_bytes(b"a" * 200_000)
    with pytest.raises(ValueError, match="more than 131072 bytes"):
        TokenFile(tmp_path / "large")


@pytest.mark.parametrize(
    "words",
    [
        ("whoami", "--token-file", "{}"),
        ("whoami", "--server", "{}"),
        ("whoami", "--profile", "{}"),
        ("login", "{}"),
        ("login", NOBODY, "{}"),
        ("token", "verify", "{}", "--tokens", "{}"),
        ("token", "revoke", "{}", "--tokens", "/dev/null"),
        ("serve", "--tokens", "{}"),
        ("serve", "--jwt-keys", "{}"),
        ("worker", "--type", "build", "--token-file", "{}", "--", "true"),
    ],
)
@pytest.mark.parametrize(
    "secret",
    [new_token().text, new_token().text + "x", "eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.c2ln-_"],
    ids=["token", "typing error", "JWT"],
)
async def test_a_token_in_the_wrong_place(words: tuple[str, ...], secret: str) -> None:
    """A command that gets a token where a name belongs does not show it: the log of a CI is read by many."""
    ended = await composerd(*(word.format(secret) for word in words))
    assert ended.code != 0
    assert ended.err
    assert secret not in ended.out + ended.err


async def test_a_token_as_the_name_of_its_file() -> None:
    """A token where the name of its file belongs is told from a file that does not exist, and is not shown."""
    secret = new_token().text
    said = "a token stands where the name of the token file belongs: write the name of a file that has it"
    with pytest.raises(ValueError, match=f"^{said}$"):
        TokenFile(secret)
    ended = await composerd("whoami", COMPOSERD_TOKEN_FILE=secret)
    assert (ended.code, ended.err) == (2, f"composerd: {said}\n")
    ended = await composerd("whoami", COMPOSERD_TOKEN=secret[:-1])
    assert (ended.code, ended.err) == (2, "composerd: the token has a typing error: it has 53 characters and not 54\n")


def test_a_token_is_not_shown() -> None:
    """No text of credentials has the token."""
    credentials: list[Credentials] = [Token(FIRST)]
    assert FIRST not in f"{credentials} {credentials[0]!r} {credentials[0]}"
    with pytest.raises(ValueError, match="the token has characters") as raised:
        Token("two words")
    assert "words" not in str(raised.value)
