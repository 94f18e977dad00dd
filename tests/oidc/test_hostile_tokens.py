"""Tokens that somebody made to get in: each is refused with error 29, and one line of the log says why."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web

from .conftest import COMPOSER, WORKER, Serve, Server, bearer
from .issuer import AUDIENCE, ISSUER, OPTIONS, claims, jwk, jwks, pem, private, token

KEYS = jwks(
    jwk("RS256", alg="RS256"),
    jwk("ES256", alg="ES256"),
    jwk("ES384"),
    jwk("EdDSA"),
    {"kty": "oct", "kid": "shared", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"},
)


def part(value: Any) -> str:
    """Return one part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def mac(secret: bytes, kid: str) -> str:
    """Return a token that is signed with a secret that the verifier has, if it can be fooled."""
    hs256 = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signed = f"{part({'alg': 'HS256', 'kid': kid})}.{part(claims())}"
    return f"{signed}.{part(hs256.sign(signed.encode(), secret))}"


def hostile() -> Iterator[tuple[str, str, str]]:
    """Yield hostile tokens: what each is, the token, and what the log says of it."""
    now = int(time.time())
    for none in ("none", "None", "nOnE", ""):
        yield f"alg {none}", f"{part({'alg': none, 'kid': 'ES256'})}.{part(claims())}.", "its algorithm is"
    yield "no alg", f"{part({'kid': 'ES256'})}.{part(claims())}.", "its algorithm is null"
    yield "alg is a list", f"{part({'alg': ['ES256'], 'kid': 'ES256'})}.{part(claims())}.", "its algorithm is"
    yield "HMAC with the public key as PEM", mac(pem("RS256"), "RS256"), "its algorithm is 'HS256'"
    yield "HMAC with the public key as JWK", mac(json.dumps(jwk("RS256")).encode(), "RS256"), "'HS256'"
    yield "HMAC with a key of the set", mac(b"secret-secret-secret-secret", "shared"), "its algorithm is 'HS256'"

    yield "wrong aud", token(aud="https://other.example.com"), "its audience is 'https://other.example.com', and not"
    yield "wrong auds", token(aud=["a", "b"]), "its audience is"
    yield "part of aud", token(aud=AUDIENCE[:-1]), "its audience is"
    yield "no aud", token(aud=None), "it has no claim aud"
    yield "aud is empty", token(aud=[]), "it has no claim aud"
    yield "aud is an object", token(aud={AUDIENCE: 1}), "its audience is"
    yield "wrong iss", token(iss="https://evil.example.com"), "its issuer is 'https://evil.example.com', and not"
    yield "iss is longer", token(iss=f"{ISSUER}/"), "its issuer is"
    yield "iss is a list", token(iss=[ISSUER]), "its issuer is"
    yield "no iss", token(iss=None), "it has no claim iss"

    yield "expired", token(exp=now - 180), "it expired 3 min ago"
    yield "expired beyond the leeway", token(exp=now - 32), "it expired 3"
    yield "no exp", token(exp=None), "it has no claim exp"
    yield "exp is a text", token(exp="never"), "exp"
    yield "exp has no end", token(exp=float("inf")), "exp"
    yield "exp is a list", token(exp=[now]), "exp"
    yield "not yet valid", token(nbf=now + 3600), "it is not yet valid; it will be in"
    yield "issued later", token(iat=now + 3600), "it is not yet valid; it will be in"

    yield "unknown kid", token("ES256 of somebody else"), "it names the key 'ES256 of somebody else', which is unknown"
    for kid in ("../../../../dev/null", "/etc/passwd", "https://evil.example.com/jwks", "' OR 1=1 --", ""):
        yield f"kid {kid}", token(header={"kid": kid}), "which is unknown"
    yield "kid with control characters", token(header={"kid": "a\n\x1b[2Jb"}), r"'a\\n\\u001b[2Jb', which is unknown"
    for name, wrong in (("a list", ["ES256"]), ("a number", 1), ("an object", {"ES256": 1})):
        made = f"{part({'alg': 'ES256', 'kid': wrong})}.{part(claims())}.{part(b'x' * 64)}"
        yield f"kid is {name}", made, "its kid is not a text"

    other = private("ES256 of somebody else")
    yield "key of somebody else", token(signed_with=other), "its signature is wrong"
    own = {"kid": "ES256", "jwk": jwk("ES256 of somebody else"), "jku": "http://127.0.0.1:1/", "x5u": "/etc/passwd"}
    yield "key in the token", token(signed_with=other, header=own), "its signature is wrong"
    yield (
        "another algorithm",
        token("PS256", signed_with=private("RS256"), header={"kid": "RS256"}),
        "its algorithm, PS",
    )
    yield "another curve", token("ES384", header={"kid": "ES256"}), "its algorithm, ES384"
    yield "no kid, among many", token(header={}, signed_with=other), "its signature is wrong"
    good = token()
    head, body, signature = good.split(".")
    yield "no signature", f"{head}.{body}.", "its signature is wrong"
    yield "zeros", f"{head}.{body}.{part(bytes(64))}", "its signature is wrong"
    yield "signature cut", f"{head}.{body}.{signature[:-2]}", "its signature is wrong"
    yield "claims changed", f"{head}.{part(claims(roles=['admin']))}.{signature}", "its signature is wrong"
    for depth in (500, 900, 950, 990):
        nested = b"[" * depth + b"]" * depth
        made = ".".join(part(b'{"' + name + b'":' + nested + b"}") for name in (b"alg", b"sub"))
        yield f"nested {depth} levels", f"{made}.", "JWT of claimed subject"
    yield "crit", token(header={"kid": "ES256", "crit": ["exp"], "exp": 1}), "the token is invalid"
    yield "long crit", token(header={"kid": "ES256", "crit": ["x" * 5000]}), "the token is invalid"
    yield "b64", token(header={"kid": "ES256", "crit": ["b64"], "b64": False}), "the token is invalid"

    yield "encrypted", f"{part({'alg': 'dir', 'enc': 'A256GCM'})}..a.b.c", "it is encrypted (JWE)"
    yield "header is no JSON", f"{part(b'{')}.{body}.{signature}", "it is malformed"
    yield "header is a list", f"{part([])}.{body}.{signature}", "it is malformed"
    yield "header is deep", f"{part(b'[' * 5000)}.{body}.{signature}", "it is malformed"
    yield "not base64", "a.b.c", "it is malformed"
    yield "empty parts", "..", "it is malformed"
    es256 = jwt.get_algorithm_by_name("ES256")
    for name, content in (("deep", b"[" * 5000), ("a list", b"[]"), ("no JSON", b"{"), ("not UTF-8", b"\xff{}")):
        signed = f"{head}.{part(content)}"
        made = f"{signed}.{part(es256.sign(signed.encode(), private('ES256')))}"
        yield f"claims are {name}", made, "the token is invalid"

    for kind in ("ID", "Refresh", ["Bearer"], 1):
        yield f"typ {kind}", token(typ=kind), "it is not an access token: its claim typ is"
    yield "no name", token(sub=None), "none of the claims sub, client_id, azp"
    yield "name is a number", token(sub=7), "Subject must be a string"
    yield "name with a line feed", token(sub="a\n2026 ERROR [-] forged"), "the name in the JWT"
    yield "long name", token(sub="a" * 256), "the name in the JWT"
    yield "too long", token(filler="a" * 13_000), "the token is longer than 16384 bytes"
    yield "100 KB", token(filler="a" * 75_000), "the token is longer than 16384 bytes"


@pytest.fixture
async def server(serve: Serve, tmp_path: Path) -> Server:
    """Start a server whose keys are in a file."""
    keys = tmp_path / "keys.json"
    keys.write_bytes(KEYS)
    keys.chmod(0o600)
    return await serve("--jwt-keys", str(keys), *OPTIONS)


async def ask(server: Server, token: str, address: str, **headers: str) -> tuple[int, dict[str, Any]]:
    """Ask who a token is for, from one of the addresses of this machine: wrong attempts slow down others from there."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"{server.url}{COMPOSER}/whoami"
        async with session.get(url, headers={**bearer(token), **headers}) as response:
            return response.status, await response.json()


async def lines(server: Server, count: int) -> list[str]:
    """Return the lines about refused credentials once there are so many; more would be one too many."""

    async def holds() -> bool:
        return server.log.count(b"refused the credentials") >= count

    await server.until(holds)
    return [line for line in server.log.decode().splitlines() if "WARNING" in line and "accepting at most" not in line]


async def test_hostile_tokens(server: Server) -> None:
    """Every hostile token gets error 29 and one line of the log, which has nothing of it but whose it claims to be."""
    for made in (token(), token("RS256"), token("ES384"), token("EdDSA"), token(aud=["x", AUDIENCE], typ="Bearer")):
        status, _ = await server.request("POST", f"{WORKER}/workers", {"arch": "x86_64"}, headers=bearer(made))
        assert status == 201
    tried = list(hostile())
    for number, (what, made, reason) in enumerate(tried, 1):
        status, body = await ask(server, made, f"127.0.8.{number}")
        assert (status, body["id"]) == (401, "29"), (what, body)
        found = await lines(server, number)
        assert len(found) == number, (what, found[number - 1 :])
        assert reason in found[-1], (what, found[-1])
        assert len(found[-1]) < 600
        assert len(str(body)) < 900
        assert not any(len(piece) > 20 and piece in found[-1] for piece in made.split(".")), what
    assert len(tried) > 50
    assert b"Traceback" not in server.log


async def test_a_long_token_in_small_pieces(server: Server) -> None:
    """A token of 100 KB that arrives in pieces gets error 29 too, on both APIs, and so does any scheme's case."""
    for number, path in enumerate((f"{COMPOSER}/whoami", f"{WORKER}/jobs"), 1):
        reader, writer = await asyncio.open_connection(*server.address, local_addr=(f"127.0.8.{number}", 0))
        sent = f"GET {path} HTTP/1.1\r\nHost: a\r\nX-First: 1\r\nauthorization: bearer {'a' * 100_000}\r\n\r\n".encode()
        for start in range(0, 20_000, 1460):
            writer.write(sent[start : start + 1460])
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(sent[start + 1460 :])
        answer = (await reader.read()).decode()
        writer.close()
        assert answer.startswith("HTTP/1.0 401 "), answer
        assert 'WWW-Authenticate: Bearer realm="composerd", error="invalid_token"' in answer
        assert json.loads(answer.partition("\r\n\r\n")[2])["id"] == "29"
        assert len(await lines(server, number)) == number


async def test_a_token_of_16_kib(server: Server) -> None:
    """A good token of 16 KiB is taken, with other headers beside it."""
    made = token(filler="a" * 11_950)
    assert 16_000 < len(made) <= 16_384
    status, known = await server.request("GET", f"{COMPOSER}/whoami", headers=bearer(made) | {"X-Other": "a" * 8000})
    assert (status, known["name"]) == (200, "builder-7")


async def test_an_open_server_takes_no_longer_heads(serve: Serve) -> None:
    """A server without identities looks at no token, and a long one is a malformed request there, as ever."""
    server = await serve()
    assert (await server.request("GET", f"{COMPOSER}/jobs", headers=bearer("x" * 8000)))[0] == 200
    assert (await server.request("GET", f"{COMPOSER}/jobs", headers=bearer("x" * 8200)))[0] == 400


class KeyServer:
    """A server of keys that counts its requests."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.fetches = 0

    async def answer(self, _request: web.Request) -> web.Response:
        """Return the keys."""
        self.fetches += 1
        return web.Response(body=jwks(*(jwk(name) for name in self.names)), content_type="application/json")


async def test_a_thousand_unknown_keys(serve: Serve, unused_tcp_port: int) -> None:
    """A thousand tokens with unknown keys within a moment make one fetch."""
    keys = KeyServer("ES256")
    app = web.Application()
    app.router.add_get("/keys", keys.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        server = await serve("--jwt-keys", f"http://127.0.0.1:{unused_tcp_port}/keys", *OPTIONS)
        assert (await server.request("GET", f"{COMPOSER}/whoami", headers=bearer(token())))[0] == 200
        assert keys.fetches == 1
        keys.names = ("ES256", "ES256 of tomorrow")
        made = [token(header={"kid": f"key-{number}"}) for number in range(1000)]

        async def send(number: int, tokens: list[str]) -> list[int]:
            return [(await ask(server, one, f"127.0.9.{number}"))[0] for one in tokens]

        answers = await asyncio.gather(*(send(number, made[number::250]) for number in range(250)))
        assert {status for one in answers for status in one} == {401}
        assert keys.fetches <= 2

        async def tomorrow_is_known() -> bool:
            await asyncio.sleep(0.25)
            sent = bearer(token("ES256 of tomorrow"))
            return (await server.request("GET", f"{COMPOSER}/whoami", headers=sent))[0] == 200

        await server.until(tomorrow_is_known)
        assert keys.fetches == 2
    finally:
        await runner.cleanup()
