"""A server takes the tokens of a real identity provider, whatever happens to the provider meanwhile."""

import asyncio
import json
from pathlib import Path

import aiohttp
import jwt
import pytest

from .conftest import COMPOSER, WORKER, Serve, Server, bearer, until_waiting
from .provider import AUDIENCE, Provider, running

row = pytest.mark.row
TABLE = "Settings"


async def whoami(server: Server, token: str) -> tuple[int, str]:
    """Return the status of `whoami` for a token, and the name, or the number of the error."""
    status, body = await server.request("GET", f"{COMPOSER}/whoami", headers=bearer(token))
    return status, body["name"] if status == 200 else body["id"]


async def until_answered(server: Server, token: str, *answer: int | str) -> None:
    """Wait until `whoami` answers a token like this. It is asked seldom, because wrong tokens are slowed down."""

    async def holds() -> bool:
        found = await whoami(server, token) == answer
        if not found:
            await asyncio.sleep(0.25)
        return found

    await server.until(holds)


@row(TABLE, "--jwt-keys")
@row(TABLE, "--jwt-tenant-claim")
@row(TABLE, "--jwt-role-claim")
@row(TABLE, "--jwt-role")
async def test_claims_become_an_identity(serve: Serve, provider: Provider) -> None:
    """The claims of a token decide the name, the role and the tenant of its client."""
    server = await serve(*provider.options)
    status, known = await server.request("GET", f"{COMPOSER}/whoami", headers=bearer(await provider.token("ci")))
    assert status == 200
    assert (known["name"], known["role"], known["tenant"], known["source"]) == ("ci", "submitter", "acme", "jwt")
    assert await whoami(server, await provider.token("nobody")) == (400, "16")
    status, body = await server.request("GET", f"{COMPOSER}/jobs", headers=bearer(await provider.token("builder-7")))
    assert (status, body["id"]) == (403, "30")
    assert b"JWT of 'nobody': it has none of the claims tenant" in server.log


@row(TABLE, "--jwt-issuer")
@row(TABLE, "--jwt-audience")
@row(TABLE, "--jwt-default-role")
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_the_algorithms_of_a_provider(serve: Serve, oidc_modules: Path, algorithm: str) -> None:
    """Tokens are taken by whichever algorithm the provider signs, and not for another issuer or audience."""
    async with running(oidc_modules, algorithm=algorithm) as provider:
        token = await provider.token()
        assert jwt.get_unverified_header(token)["alg"] == algorithm
        for issuer, audience, status in (
            (provider.issuer, AUDIENCE, 200),
            (f"{provider.issuer}/", AUDIENCE, 401),
            (provider.issuer, "https://other.example.com", 401),
        ):
            server = await serve(
                *("--jwt-keys", provider.keys_url, "--jwt-issuer", issuer, "--jwt-audience", audience),
                *("--jwt-default-role", "worker"),
            )
            assert (await whoami(server, token))[0] == status
            await server.close()


async def test_keys_are_rotated_while_workers_wait(serve: Serve, provider: Provider) -> None:
    """A worker that waits goes on waiting, tokens by the new key are taken soon, and those by the old key no more."""
    server = await serve(*provider.options)
    old, submitter = await provider.token("builder-7"), await provider.token("ci")
    asked = {"types": ["build"], "arch": "x86_64"}
    waiting = asyncio.create_task(server.request("POST", f"{WORKER}/jobs?wait=30s", asked, headers=bearer(old)))
    await until_waiting(server, 1, headers=bearer(await provider.token("boss")))
    await provider.rotate(keep=False)
    assert await whoami(server, old) == (200, "builder-7")  # nobody has fetched the new keys yet
    status, _ = await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"}, headers=bearer(submitter))
    assert status == 201
    status, job = await waiting
    assert status == 201
    new = await provider.token("builder-7")
    await until_answered(server, new, 200, "builder-7")
    assert await whoami(server, old) == (401, "29")
    assert (await server.request("PATCH", job["location"], {"result": 1}, headers=bearer(new)))[0] == 200
    assert await provider.requests("/jwks") == 2
    assert b"it names the key 'key-1', which is unknown" in server.log


async def test_the_provider_is_away(serve: Serve, provider: Provider) -> None:
    """While the provider is away, known keys go on working; the log says so once, and `/readyz` all the time."""
    server = await serve(*provider.options)
    early, boss = await provider.token("builder-7"), await provider.token("boss")
    assert await whoami(server, boss) == (200, "boss")
    await provider.rotate()
    late = await provider.token("builder-8")
    await provider.close()

    await until_answered(server, late, 503, "28")
    assert await whoami(server, early) == (200, "builder-7")
    assert server.log.count(b"cannot fetch the keys of JWTs from") == 1
    assert b"the known keys go on working" in server.log
    status, text = await server.request("GET", "/readyz", headers=bearer(boss))
    assert status == 200
    assert f"the keys of JWTs cannot be fetched from {provider.keys_url}".encode() in text
    assert b"keys of JWTs" not in (await server.request("GET", "/readyz"))[1]
    await provider.open()
    await until_answered(server, late, 200, "builder-8")
    assert await whoami(server, early) == (200, "builder-7")
    assert (await server.request("GET", "/readyz", headers=bearer(boss)))[1] == b"ready\n"
    assert server.log.count(b"cannot fetch the keys of JWTs from") == 1
    assert server.log.count(b"fetched the keys of JWTs from") == 1


async def test_the_provider_is_away_at_the_start(serve: Serve, provider: Provider) -> None:
    """The server starts without the provider, answers its tokens with error 28, and takes them once it is there."""
    token = await provider.token()
    await provider.close()
    server = await serve(*provider.options)
    assert await whoami(server, token) == (503, "28")
    assert b"JWTs get error 28 until they are there" in server.log
    assert await whoami(server, "not-a-jwt") == (401, "29")
    assert (await server.request("GET", "/healthz"))[0] == 200
    await provider.open()
    await until_answered(server, token, 200, "builder-7")


@pytest.mark.parametrize(
    ("offset", "lifetime", "taken"), [(20, 300, True), (-20, 10, True), (40, 300, False), (-45, 10, False)]
)
async def test_clocks_apart(serve: Serve, provider: Provider, offset: int, lifetime: int, taken: bool) -> None:
    """Tokens are taken if the provider's clock is 20 s ahead or behind, and refused if it is 40 s."""
    server = await serve(*provider.options)
    await provider.set_clock(offset)
    await provider.set_lifetime(lifetime)
    token = await provider.token()
    assert await whoami(server, token) == ((200, "builder-7") if taken else (401, "29"))
    if not taken:
        assert (b"it is not yet valid; it will be in" if offset > 0 else b"it expired 3") in server.log


async def test_tokens_for_a_refresh_token(serve: Serve, provider: Provider) -> None:
    """An access token that a client gets for its refresh token is taken, and belongs to the account."""
    server = await serve(*provider.options)
    form = {"grant_type": "refresh_token", "client_id": "offline", "refresh_token": await provider.refresh_token()}
    async with aiohttp.ClientSession() as session, session.post(provider.token_url, data=form) as response:
        token = (await response.json())["access_token"]
    assert await whoami(server, token) == (200, "ann")


@row(TABLE, "--jwt-acl")
async def test_patterns_for_claims(serve: Serve, provider: Provider, tmp_path: Path) -> None:
    """Only tokens whose claims match osbuild-composer's list of patterns are taken, also after the list changes."""
    acl = tmp_path / "acl.yml"
    acl.write_text("- claim: sub\n  pattern: ^builder-[0-6]$\n- claim: tenant\n  pattern: ^(acme|umbrella)$\n")
    acl.chmod(0o600)
    server = await serve(*provider.options, "--jwt-acl", str(acl))
    seven, eight = await provider.token("builder-7"), await provider.token("builder-8")
    assert await whoami(server, seven) == (200, "builder-7")
    assert await whoami(server, eight) == (403, "30")
    assert b"JWT of 'builder-8': its claims match no pattern of jwt_acl" in server.log
    acl.write_text("- claim: sub\n  pattern: 8$\n")
    await until_answered(server, seven, 403, "30")
    assert await whoami(server, eight) == (200, "builder-8")


@row(TABLE, "--jwt-keys")
async def test_keys_in_a_file(serve: Serve, provider: Provider, tmp_path: Path) -> None:
    """A set of keys in a file is taken as it is, and read again when it changes."""

    async def download() -> None:
        async with aiohttp.ClientSession() as session, session.get(provider.keys_url) as response:
            keys.write_text(json.dumps(await response.json()))

    keys = tmp_path / "keys.json"
    await download()
    server = await serve("--jwt-keys", str(keys), *provider.options[2:])
    old = await provider.token()
    assert await whoami(server, old) == (200, "builder-7")
    await provider.rotate(keep=False)
    new = await provider.token()
    assert await whoami(server, new) == (401, "29")
    await download()
    await until_answered(server, new, 200, "builder-7")
    assert await whoami(server, old) == (401, "29")
    assert await provider.requests("/jwks") == 2
