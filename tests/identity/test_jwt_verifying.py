"""Verification of tokens: the algorithm has to fit the key, whatever the header says."""

import pytest

from composerd.errors import NotAuthenticated
from composerd.identity.jwt.keys import Key, parse_key_set
from composerd.identity.jwt.verifying import Verifier

from ..oidc.issuer import AUDIENCE, ISSUER, jwk, jwks, private, token


def key(name: str, **changed: str) -> Key:
    """Return the public key of a name."""
    return parse_key_set(jwks(jwk(name, **changed))).keys[0]


VERIFIER = Verifier(ISSUER, AUDIENCE)


def test_the_algorithm_of_the_key_counts() -> None:
    """An RSA key that is for one algorithm verifies no other, also one that it could verify."""
    signed = token("PS256", signed_with=private("RS256"))
    assert VERIFIER.verify(signed, [key("RS256")])["sub"] == "builder-7"
    with pytest.raises(NotAuthenticated, match="alg value is not allowed"):
        VERIFIER.verify(signed, [key("RS256", alg="RS256")])


def test_several_keys() -> None:
    """With several keys the one that verifies counts, wherever it is among them."""
    keys = [key("ES256 of a third"), key("ES256"), key("ES256 of another")]
    for name in ("ES256", "ES256 of another", "ES256 of a third"):
        assert VERIFIER.verify(token(name), keys)
    with pytest.raises(NotAuthenticated, match="its signature is wrong"):
        VERIFIER.verify(token("ES256 of a fourth"), keys)
