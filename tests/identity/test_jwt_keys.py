"""Keys of JWK sets: which can be used, and for what."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from composerd.identity.jwt.key_ring import KeyRing
from composerd.identity.jwt.keys import ALGORITHMS, MOST_KEYS, parse_key_set

from ..oidc.issuer import jwk, jwks, private

RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


@pytest.mark.parametrize(
    ("name", "changed", "algorithms"),
    [
        ("RS256", {}, RSA),
        ("RS256", {"alg": "PS384"}, {"PS384"}),
        ("RS256", {"key_ops": ["verify"]}, RSA),
        ("ES256", {}, {"ES256"}),
        ("ES384", {"use": "sig"}, {"ES384"}),
        ("ES512", {}, {"ES512"}),
        ("EdDSA", {}, {"EdDSA"}),
    ],
)
def test_keys_that_are_used(name: str, changed: dict[str, Any], algorithms: set[str]) -> None:
    """A key verifies the algorithms of its kind, or of these the one that it names."""
    found = parse_key_set(jwks(jwk(name, **changed)))
    assert [key.algorithms for key in found.keys] == [algorithms]
    assert found.problem is None


def test_algorithms_are_asymmetric() -> None:
    """No algorithm verifies with what it signs with."""
    assert RSA | {"ES256", "ES384", "ES512", "EdDSA"} == ALGORITHMS


def short() -> dict[str, Any]:
    """Return the JWK of an RSA key of 1024 bits."""
    made = rsa.generate_private_key(65537, 1024).public_key()  # it is to be refused
    return jwt.algorithms.RSAAlgorithm.to_jwk(made, as_dict=True) | {"kid": "short"}


def other_curve() -> dict[str, Any]:
    """Return the JWK of a key on a curve that no algorithm of ours is for."""
    made = ec.generate_private_key(ec.SECP256K1()).public_key()
    return jwt.algorithms.ECAlgorithm.to_jwk(made, as_dict=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "is of a kind that is not taken (oct"),
        (jwk("RS256", use="enc"), "is not for signatures"),
        (jwk("RS256", key_ops=["encrypt"]), "is not for signatures"),
        (jwk("RS256", alg="RSA-OAEP"), "is of a kind that is not taken (RSA, RSA-OAEP)"),
        (jwk("RS256", alg="HS256"), "is of a kind that is not taken (RSA, HS256)"),
        (jwk("RS256", alg="none"), "is of a kind that is not taken (RSA, none)"),
        (jwk("RS256", n="AQAB"), "is malformed"),
        (jwk("RS256", n=5), "is malformed"),
        (jwk("RS256", e=None), "is malformed"),
        (jwk("RS256", e="AA"), "is malformed"),
        (jwk("ES256", x="AAAA"), "is malformed"),
        (jwk("ES256", crv="P-384"), "is malformed"),
        (jwk("ES256", alg="ES384"), "is of a kind that is not taken (EC, ES384)"),
        (jwk("EdDSA", x="AA"), "is malformed"),
        (jwk("EdDSA", crv="Ed448"), "is of a kind that is not taken (OKP, Ed448)"),
        (jwk("ES256", kid=7), "has a kid that is not a text"),
        (jwk("ES256", key_ops=7), "is not for signatures"),
        (jwk("ES256", key_ops="verify"), "is not for signatures"),
        (jwk("RS256", kty=["RSA"]), "is of a kind that is not taken"),
        ("key", "is not an object"),
        (short(), "has 1024 bits, and not 2048 to 16384"),
        (jwk("RS256", n="_" * 100_000), "has 600000 bits, and not 2048 to 16384"),
        (other_curve(), "is of a kind that is not taken (EC, secp256k1)"),
    ],
)
def test_keys_that_are_not_used(given: Any, said: str) -> None:
    """A key that is not for signatures, malformed or weak is left out, and the others of the set are used."""
    alone = parse_key_set(jwks(given))
    assert not alone.keys
    assert alone.problem is not None
    assert said in alone.problem
    beside = parse_key_set(jwks(given, jwk("ES256")))
    assert [key.id for key in beside.keys] == ["ES256"]
    assert beside.problem is None


@pytest.mark.parametrize("name", ["RS256", "ES256", "EdDSA"])
def test_private_keys_are_not_used(name: str) -> None:
    """A private key is left out, though it has the public one, and the set has a problem."""
    made = jwt.get_algorithm_by_name(name).to_jwk(private(name), as_dict=True)
    found = parse_key_set(jwks(made | {"kid": name}, jwk("ES384")))
    assert [key.id for key in found.keys] == ["ES384"]
    assert found.problem is not None
    assert "it has private keys" in found.problem


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"{}", b'{"keys": {}}', b'{"keys": null}', b"\xff", b"<html></html>"),
        b'{"keys":' + b"[" * 100_000,
        json.dumps({"keys": [{}] * (MOST_KEYS + 1)}).encode(),
    ],
)
def test_what_is_no_set_of_keys(content: bytes) -> None:
    """Anything but a JWK set of some keys is refused as a whole."""
    with pytest.raises(ValueError, match=r"it is not|it has 101 keys"):
        parse_key_set(content)


def test_an_empty_set() -> None:
    """A set without keys is taken as it is: its issuer has withdrawn all of them."""
    found = parse_key_set(jwks())
    assert (list(found.keys), found.problem) == ([], "no key in it can be used: it is empty")


def test_what_tells_keys_apart() -> None:
    """A key is another one if its id, its algorithm or its content differs, and not if its other members do."""
    keys = [jwk("ES256"), jwk("ES256", kid="b"), jwk("RS256"), jwk("RS256", alg="RS256"), jwk("RS256 of another")]
    assert len(parse_key_set(jwks(*keys)).contents) == 5
    assert parse_key_set(jwks(jwk("ES256"))).contents == parse_key_set(jwks(jwk("ES256", use="sig", x5t="a"))).contents


async def test_a_file_without_usable_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file whose keys cannot be used is logged when it is read, and is the problem of the ring."""
    path = tmp_path / "keys.json"
    path.write_bytes(jwks())
    said = f"the set of keys at {path} has a problem: no key in it can be used: "
    assert KeyRing([str(path)], lambda: None).problem == (
        "jwt_keys: the file has a problem: no key in it can be used: it is empty"
    )
    assert caplog.messages == [f"{said}it is empty"]
    path.write_bytes(jwks(jwk("ES256")))
    lost = asyncio.Event()
    ring = KeyRing([str(path)], lost.set)
    assert ring.problem is None
    task = asyncio.create_task(ring.run())
    path.write_bytes(b'{"keys": [{"kty": "oct", "k": "AAAA"}]}')
    async with asyncio.timeout(5):
        await lost.wait()
    task.cancel()
    await asyncio.wait([task])
    assert caplog.messages[1].startswith(f"{said}key 1 is of a kind that is not taken")
