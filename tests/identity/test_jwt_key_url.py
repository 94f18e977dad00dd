"""Keys at a URL: when they are fetched, what of the answers is taken, and what happens when there are none."""

import asyncio
import gzip
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from composerd.identity.jwt import key_url
from composerd.identity.jwt.key_url import KeyUrl, _time_of_use

from ..oidc.issuer import jwk, jwks

KEYS = jwks(jwk("ES256"))

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Keys:
    """A server of keys whose answers a test decides."""

    def __init__(self) -> None:
        self.fetches = 0
        self.answer: Answer = self.good
        self.go_on = asyncio.Event()
        self.go_on.set()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self.server = TestServer(app)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.fetches += 1
        await self.go_on.wait()
        return await self.answer(request)

    async def good(self, _request: web.Request) -> web.StreamResponse:
        """Answer with the keys."""
        return web.Response(body=KEYS)

    @property
    def url(self) -> str:
        """The URL of the keys."""
        return str(self.server.make_url("/keys"))


@pytest.fixture
async def keys() -> AsyncIterator[Keys]:
    """Start a server of keys."""
    keys = Keys()
    await keys.server.start_server()
    yield keys
    keys.go_on.set()
    await keys.server.close()


@asynccontextmanager
async def fetching(url: str) -> AsyncIterator[KeyUrl]:
    """Keep the keys of a URL up to date in the block, which begins after the first fetch."""
    found = KeyUrl(url, lambda: None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(found.run())
        await found.renew()
        yield found
        task.cancel()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # nothing tells when it does
            await asyncio.sleep(0.01)


async def test_many_share_a_fetch(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who ask for new keys wait for the same fetch, also if one of them gives up, and no other follows it."""
    monkeypatch.setattr(key_url, "FETCH_EVERY", 0.2)
    async with fetching(keys.url) as found:
        assert keys.fetches == 1
        await asyncio.sleep(0.2)  # the next fetch may begin at once
        keys.go_on.clear()
        asking = [asyncio.create_task(found.renew()) for _ in range(1000)]
        await until(lambda: keys.fetches == 2)
        asking[0].cancel()
        asking.append(asyncio.create_task(found.renew()))
        await asyncio.sleep(0.01)
        assert not any(one.done() for one in asking[1:])
        keys.go_on.set()
        await asyncio.gather(*asking[1:])
        await asyncio.sleep(0.3)
        assert keys.fetches == 2


async def test_the_least_time_between_two_fetches(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who asks too soon is kept waiting, and the next fetch begins as soon as it may."""
    monkeypatch.setattr(key_url, "FETCH_EVERY", 0.5)
    async with fetching(keys.url) as found:
        began = asyncio.get_running_loop().time()
        keys.go_on.clear()
        for _ in range(1000):
            async with asyncio.timeout(0.4):
                await found.renew()
        assert keys.fetches == 1
        await until(lambda: keys.fetches == 2)
        assert asyncio.get_running_loop().time() - began > 0.3
        keys.go_on.set()


async def test_keys_are_fetched_again(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any token, the keys are fetched again after a time, and a key that is gone is gone."""
    monkeypatch.setattr(key_url, "USUAL", 0.2)
    changes: list[int] = []
    found = KeyUrl(keys.url, lambda: changes.append(keys.fetches))
    task = asyncio.create_task(found.run())
    await found.renew()
    assert found.keys is not None
    assert [key.id for key in found.keys.keys] == ["ES256"]

    async def rotated(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=jwks(jwk("ES384")))

    keys.answer = rotated
    await until(lambda: found.keys is not None and found.keys.keys[0].id == "ES384")
    assert changes == [*range(1, len(changes) + 1)]
    task.cancel()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 300),
        ("public", 300),
        ("max-age=120", 120),
        ("public, max-age=600, must-revalidate", 600),
        ('Max-Age = "600"', 600),
        ("max-age=1", 60),
        ("max-age=0", 60),
        ("max-age=86400", 900),
        ("s-maxage=120", 300),
        ("max-age=-5", 300),
        ("max-age=soon", 300),
        ("no-store", 60),
        ("private, no-cache, max-age=600", 60),
        ("max-age=" + "9" * 5000, 900),
    ],
)
def test_how_long_keys_may_be_used(header: str, seconds: float) -> None:
    """The `Cache-Control` of the answer is respected between a minute and a quarter of an hour."""
    assert _time_of_use(header) == seconds


async def status_500(_request: web.Request) -> web.StreamResponse:
    """Answer with an error."""
    return web.Response(status=500)


async def page(_request: web.Request) -> web.StreamResponse:
    """Answer with something else."""
    return web.Response(text="<html>Sign in</html>")


async def large(request: web.Request) -> web.StreamResponse:
    """Answer without end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def compressed(_request: web.Request) -> web.StreamResponse:
    """Answer with keys that are compressed, for which nobody has asked."""
    return web.Response(body=gzip.compress(KEYS), headers={"Content-Encoding": "gzip"})


async def slow(_request: web.Request) -> web.StreamResponse:
    """Answer too late."""
    await asyncio.sleep(5)
    return web.Response(body=KEYS)


async def trickling(request: web.Request) -> web.StreamResponse:
    """Answer byte by byte."""
    response = web.StreamResponse()
    await response.prepare(request)
    for byte in KEYS:
        await response.write(bytes([byte]))
        await asyncio.sleep(0.05)
    return response


async def cut(request: web.Request) -> web.StreamResponse:
    """Close the connection within the answer."""
    response = web.StreamResponse(headers={"Content-Length": str(len(KEYS))})
    await response.prepare(request)
    await response.write(KEYS[:50])
    assert request.transport is not None
    request.transport.close()
    return response


def redirecting(target: str) -> Answer:
    """Return an answer that redirects."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    return answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (status_500, "the answer has the status 500"),
        (page, "it is not JSON"),
        (large, "the answer is larger than 524288 bytes"),
        (compressed, "it is not JSON"),
        (slow, "there was no answer within 0.5 s"),
        (trickling, "there was no answer within 0.5 s"),
        (cut, ""),
        (redirecting("/keys"), "there are more than 3 redirections"),
        (redirecting("https://127.0.0.1/keys"), "it redirects from http to https"),
        (redirecting("http://192.0.2.1/keys"), "'http://192.0.2.1/keys' is fetched without TLS"),
        (redirecting("file:///etc/passwd"), "it redirects from http to file"),
        (redirecting("http://[/"), ""),
    ],
)
async def test_answers_without_keys(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: Answer, said: str
) -> None:
    """An answer without keys changes nothing; the log says once when it begins and when it ends."""
    monkeypatch.setattr(key_url, "FETCH_EVERY", 0.0)
    monkeypatch.setattr(key_url, "FETCH_WITHIN", 0.5)
    caplog.set_level(logging.INFO)
    async with fetching(keys.url) as found:
        known = found.keys
        assert (found.problem, found.away) == (None, False)
        keys.answer = answer
        for _ in range(2):
            await found.renew()
            assert found.keys is known
            assert found.away
            assert found.problem is not None
            assert found.problem.startswith(f"the keys of JWTs cannot be fetched from {keys.url}: ")
            assert said in found.problem
        keys.answer = keys.good
        await found.renew()
        await until(lambda: not found.away)
        assert found.problem is None
    messages = [(record.levelname, record.message) for record in caplog.records if record.name == key_url.__name__]
    assert [level for level, _ in messages] == ["WARNING", "INFO"]
    assert messages[0][1].endswith("; the known keys go on working")


async def test_redirections_that_are_followed(keys: Keys) -> None:
    """Keys may be at another place on this machine."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/keys":
            return web.Response(status=301, headers={"Location": "../real?x=1"})
        return await keys.good(request)

    keys.answer = answer
    async with fetching(keys.url) as found:
        assert found.keys is not None
        assert not found.away


async def test_a_set_without_usable_keys(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    """A set that has no usable key is in force, because its keys are withdrawn, and is a problem."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=jwks(jwk("RS256", use="enc")))

    keys.answer = answer
    async with fetching(keys.url) as found:
        assert found.keys is not None
        assert not found.keys.keys
        assert not found.away
        assert found.problem is not None
        assert "no key in it can be used: key 1 is not for signatures" in found.problem
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come with TLS only from a server whose certificate an authority of `SSL_CERT_FILE` has signed."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    served = Keys()
    await served.server.start_server(ssl=context)
    url = f"https://localhost:{served.server.port}/keys"
    try:
        async with fetching(url) as found:
            assert found.keys is None
            assert found.problem is not None
            assert "certificate" in found.problem
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with fetching(url) as found:
            assert found.keys is not None
        async with fetching(url.replace("localhost", "127.0.0.1")) as found:
            assert found.keys is None
    finally:
        await served.server.close()
