"""The public keys that tokens are signed with, from JWK sets (RFC 7517)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import AllowedPublicKeys

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})

_OF_CURVE: Mapping[tuple[str, str], frozenset[str]] = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}

ALGORITHMS = _RSA.union(*_OF_CURVE.values())
"""The algorithms that tokens may be signed with. With all of them, the key that verifies cannot sign."""

_PUBLIC = ("kty", "crv", "n", "e", "x", "y")
"""The members of a JWK that make a public key. A `d` beside them would make PyJWT load a private one."""

MOST_KEYS = 100
"""The most keys of a set."""

SHORTEST_RSA_KEY = 2048
"""The fewest bits of an RSA key. Shorter ones can be, or soon will be, factored."""


LONGEST_RSA_KEY = 16384
"""The most bits of an RSA key, which is what OpenSSL verifies with."""


class Key(msgspec.Struct, frozen=True):
    """A public key, and what may be verified with it."""

    id: str | None
    """The key's `kid`."""
    algorithms: frozenset[str]
    public: AllowedPublicKeys
    content: tuple[Any, ...]
    """The members that make the key: they tell it from others."""


class UnusableKey(Exception):
    """A key of a set that nothing can be verified with; the message says why."""


class KeySet:
    """The usable keys of one set."""

    def __init__(self, keys: Sequence[Key] = (), problem: str | None = None) -> None:
        self.keys = keys
        self.problem = problem
        """A sentence for those who publish the set about what is wrong with it; None if nothing is."""
        self.contents = frozenset(key.content for key in keys)


def parse_key_set(content: bytes) -> KeySet:
    """Return the keys of a JWK set. Raises `ValueError` if it is none."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"it is not JSON: {exc}") from exc
    match found:
        case {"keys": list(given)}:
            pass
        case _:
            raise ValueError("it is not a JWK set, which is an object with a list of `keys`")
    if len(given) > MOST_KEYS:
        raise ValueError(f"it has {len(given)} keys, and at most {MOST_KEYS} are read")
    keys, reasons = [], []
    for number, one in enumerate(given, 1):
        try:
            keys.append(_parse_key(one))
        except UnusableKey as exc:
            reasons.append(f"key {number} {exc}")
    if any(isinstance(one, dict) and "d" in one for one in given):
        return KeySet(keys, f"it has private keys, which are not used: publish the public parts only ({reasons[0]})")
    return KeySet(keys, None if keys else f"no key in it can be used: {'; '.join(reasons[:3]) or 'it is empty'}")


def _parse_key(given: Any) -> Key:
    """Return a key that tokens may be signed with. Raises `UnusableKey`."""
    if not isinstance(given, dict):
        raise UnusableKey("is not an object")
    if "d" in given:
        raise UnusableKey("is a private key, with which everybody who reads it can sign")
    key_id = given.get("kid")
    if not isinstance(key_id, str | None):
        raise UnusableKey("has a kid that is not a text")
    operations = given.get("key_ops", ["verify"])
    if given.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKey("is not for signatures")
    algorithms = _algorithms_of(given)
    members = {name: value for name in _PUBLIC if isinstance(value := given.get(name), str)}
    try:
        public: Any = jwt.PyJWK(members, min(algorithms)).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, AttributeError) as exc:
        raise UnusableKey(f"is malformed: {exc}") from exc
    if isinstance(public, RSAPublicKey) and not SHORTEST_RSA_KEY <= public.key_size <= LONGEST_RSA_KEY:
        raise UnusableKey(f"has {public.key_size} bits, and not {SHORTEST_RSA_KEY} to {LONGEST_RSA_KEY}")
    return Key(key_id, algorithms, public, (key_id, *sorted(algorithms), *sorted(members.items())))


def _algorithms_of(given: Mapping[str, Any]) -> frozenset[str]:
    """Return the algorithms that a key fits: those of its kind, or of them the one that it names."""
    kind = given.get("kty")
    fitting = _RSA if kind == "RSA" else _OF_CURVE.get((str(kind), str(given.get("crv"))), frozenset())
    named = given.get("alg")
    algorithms = fitting if named is None else fitting & {str(named)}
    if not algorithms:
        raise UnusableKey(f"is of a kind that is not taken ({kind}, {named or given.get('crv')})")
    return algorithms
