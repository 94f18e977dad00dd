"""The source of identities that verifies JWTs: what it remembers, and for how long."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from composerd.errors import NotAllowed, NotAuthenticated
from composerd.identity.jwt import source as module
from composerd.identity.jwt.claims import JwtClaims
from composerd.identity.jwt.source import JwtSource
from composerd.identity.jwt.verifying import Verifier
from composerd.identity.roles import Role
from composerd.watched_file import UnusableFile

from ..oidc.issuer import AUDIENCE, ISSUER, jwk, jwks, private, token

CLAIMS = JwtClaims(tenant_claims=("tenant",), default_role=Role.WORKER)


def written(path: Path, content: bytes) -> str:
    """Write a file of the operator's, and return its path."""
    path.write_bytes(content)
    path.chmod(0o600)
    return str(path)


def source_of(path: Path, *keys: dict[str, Any], acl: str | None = None) -> JwtSource:
    """Return a source that takes tokens of these keys."""
    return JwtSource([written(path / "keys.json", jwks(*keys))], Verifier(ISSUER, AUDIENCE), CLAIMS, acl)


@asynccontextmanager
async def kept_up_to_date(source: JwtSource) -> AsyncIterator[None]:
    """Let the source notice changes of its files in the block."""
    task = asyncio.create_task(source.run())
    yield
    task.cancel()
    await asyncio.wait([task])


async def until_forgotten(source: JwtSource, made: str) -> None:
    """Wait until a token that was verified has to be verified again."""
    async with asyncio.timeout(20):
        while source.known(made) is not None:  # noqa: ASYNC110  # nothing tells when it is
            await asyncio.sleep(0.01)


async def test_a_token_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was verified is known until it expires, with the leeway, and no other token is."""
    source = source_of(tmp_path, jwk("ES256"))
    now = time.time()
    made = token(exp=int(now) + 100)
    assert source.takes(made)
    assert source.known(made) is None
    identity = await source.identify(made)
    assert (identity.name, identity.tenant, identity.source) == ("builder-7", "acme", "jwt")
    assert identity.expires_at == int(now) + 100
    assert source.known(made) is identity
    assert source.known(made[:-1]) is None
    assert source.known(token(exp=int(now) + 101)) is None
    monkeypatch.setattr(time, "time", lambda: int(now) + 129.9)
    assert source.known(made) is identity
    monkeypatch.setattr(time, "time", lambda: int(now) + 130.0)
    assert source.known(made) is None


async def test_a_key_is_taken_away(tmp_path: Path) -> None:
    """When a key is taken away, all tokens are verified again; a key that is added changes nothing."""
    source = source_of(tmp_path, jwk("ES256"), jwk("EdDSA"))
    first, second = token("ES256"), token("EdDSA")
    async with kept_up_to_date(source):
        for made in (first, second):
            await source.identify(made)
        written(tmp_path / "keys.json", jwks(jwk("EdDSA")))
        await until_forgotten(source, first)
        assert source.known(second) is None
        with pytest.raises(NotAuthenticated, match="it names the key 'ES256', which is unknown"):
            await source.identify(first)
        known = await source.identify(second)
        written(tmp_path / "keys.json", jwks(jwk("EdDSA"), jwk("ES384")))
        async with asyncio.timeout(20):
            while True:
                try:
                    await source.identify(token("ES384"))
                except NotAuthenticated:
                    await asyncio.sleep(0.01)
                else:
                    break
        assert source.known(second) is known


async def test_a_key_is_replaced_under_its_id(tmp_path: Path) -> None:
    """Another key with the same id does not keep tokens of the old one alive."""
    source = source_of(tmp_path, jwk("ES256"))
    made = token("ES256")
    async with kept_up_to_date(source):
        await source.identify(made)
        written(tmp_path / "keys.json", jwks(jwk("ES256 of another", kid="ES256")))
        await until_forgotten(source, made)
        with pytest.raises(NotAuthenticated, match="its signature is wrong"):
            await source.identify(made)


async def test_two_keys_with_one_id(tmp_path: Path) -> None:
    """If two sets use the same id for different keys, tokens of both are taken, and no others."""
    places = [
        written(tmp_path / "a.json", jwks(jwk("ES256", kid="1"), jwk("RS256", kid="1"))),
        written(tmp_path / "b.json", jwks(jwk("ES256 of another", kid="1"))),
    ]
    source = JwtSource(places, Verifier(ISSUER, AUDIENCE), CLAIMS)
    for name in ("ES256", "ES256 of another", "RS256"):
        await source.identify(token(name, header={"kid": "1"}))
    with pytest.raises(NotAuthenticated, match="its signature is wrong"):
        await source.identify(token("ES256 of a third", header={"kid": "1"}))
    with pytest.raises(NotAuthenticated, match="it expired"):
        await source.identify(token("ES256", header={"kid": "1"}, exp=int(time.time()) - 60))


async def test_a_token_that_names_no_key(tmp_path: Path) -> None:
    """A token without the id of a key is taken if one key alone is for its algorithm."""
    source = source_of(tmp_path, jwk("ES256"), jwk("RS256", kid=None), jwk("ES384"), jwk("ES384 of another"))
    await source.identify(token("ES256", header={}))
    await source.identify(token("RS256", header={}))
    with pytest.raises(NotAuthenticated, match="there is not exactly one key that fits"):
        await source.identify(token("ES384", header={}))
    with pytest.raises(NotAuthenticated, match="its signature is wrong"):
        await source.identify(token("ES256", header={}, signed_with=private("ES256 of another")))


async def test_the_most_that_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many tokens are remembered, and the oldest is forgotten for another."""
    monkeypatch.setattr(module, "MOST_VERIFIED", 3)
    source = source_of(tmp_path, jwk("ES256"))
    made = [token(sub=f"builder-{number}") for number in range(4)]
    for one in made:
        await source.identify(one)
    assert [source.known(one) is not None for one in made] == [False, True, True, True]


async def test_refused_tokens_are_not_remembered(tmp_path: Path) -> None:
    """A token that the patterns refuse is verified again when the patterns change, and so is one that they let pass."""
    acl = written(tmp_path / "acl.yml", b"- {claim: sub, pattern: ^builder-8$}\n")
    source = source_of(tmp_path, jwk("ES256"), acl=acl)
    seven, eight = token(sub="builder-7"), token(sub="builder-8")
    async with kept_up_to_date(source):
        with pytest.raises(NotAllowed):
            await source.identify(seven)
        assert source.known(seven) is None
        await source.identify(eight)
        written(tmp_path / "acl.yml", b"- {claim: sub, pattern: ^builder-7$}\n")
        await until_forgotten(source, eight)
        with pytest.raises(NotAllowed):
            await source.identify(eight)
        await source.identify(seven)
        assert source.problem is None
        written(tmp_path / "acl.yml", b"")
        async with asyncio.timeout(20):
            while source.problem is None:  # noqa: ASYNC110  # nothing tells when there is one
                await asyncio.sleep(0.01)
        assert "jwt_acl" in source.problem
        assert source.known(seven) is not None


@pytest.mark.parametrize("content", [b"", b"{}", b"-----BEGIN PUBLIC KEY-----"])
def test_a_file_without_keys(tmp_path: Path, content: bytes) -> None:
    """A file that is no set of keys stops the start."""
    with pytest.raises(UnusableFile, match="jwt_keys"):
        JwtSource([written(tmp_path / "keys.json", content)], Verifier(ISSUER, AUDIENCE), CLAIMS)


@pytest.mark.parametrize(
    ("made", "taken"),
    [
        ("a.b.c", True),
        ("a.b.", True),
        ("..", True),
        ("a.b.c.d.e", True),
        ("a.b", False),
        ("a", False),
        ("a.b.c\udcff", False),
    ],
)
def test_the_form_of_a_token(tmp_path: Path, made: str, taken: bool) -> None:
    """Texts with the parts of a JWT are verified, and nothing else is."""
    assert source_of(tmp_path, jwk("ES256")).takes(made) is taken


async def test_nothing_of_the_token_is_in_an_error(tmp_path: Path) -> None:
    """Neither what the log says of a refused token nor what the client is told has a part of it."""
    source = source_of(tmp_path, jwk("ES256"))
    made = token(iss="https://evil.example.com", sub="x" * 5000)
    with pytest.raises(NotAuthenticated) as refused:
        await source.identify(made)
    said = f"{refused.value} {refused.value.details}"
    assert len(said) < 600
    assert not any(part in said for part in made.split("."))
    assert ISSUER not in str(refused.value.details)
    assert jwt.get_unverified_header(made)["kid"] == "ES256"
