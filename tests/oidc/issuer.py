"""An issuer of tokens without a server: it signs whatever a test asks for."""

import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER = "https://sso.example.com/realms/main"
AUDIENCE = "https://composer.example.com"


@cache
def private(name: str) -> Any:
    """Return the private key of a name, such as `RS256` or `RS256 of somebody else`, which is made once."""
    kind = name.partition(" ")[0]
    if kind in ("RS256", "PS256"):
        return rsa.generate_private_key(65537, 2048)
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[kind])


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """Return the public JWK of a key, whose id is the name, with more members."""
    algorithm = jwt.get_algorithm_by_name(name.partition(" ")[0])
    made = algorithm.to_jwk(private(name).public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": name, "use": "sig", **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    """Return a JWK set with these keys."""
    return json.dumps({"keys": keys}).encode()


def pem(name: str) -> bytes:
    """Return the public key of a name, as a PEM file has it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return private(name).public_key().public_bytes(serialization.Encoding.PEM, form)  # type: ignore[no-any-return]


def claims(**changed: Any) -> dict[str, Any]:
    """Return the claims of a good token with changes; one that becomes None is left out."""
    now = int(time.time())
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "builder-7",
        "iat": now,
        "exp": now + 300,
        "tenant": "acme",
        "roles": ["worker"],
        **changed,
    }
    return {name: value for name, value in made.items() if value is not None}


def token(key: str = "ES256", *, signed_with: Any = None, header: dict[str, Any] | None = None, **changed: Any) -> str:
    """Return a token, signed with the key of a name, by the algorithm with which the name begins."""
    algorithm = key.partition(" ")[0]
    body = json.dumps(claims(**changed)).encode()
    named = {"kid": key} if header is None else header
    return jwt.api_jws.encode(body, signed_with or private(key), algorithm, headers={"typ": "JWT", **named})


OPTIONS = (
    *("--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-tenant-claim", "tenant"),
    *("--jwt-role-claim", "roles", "--jwt-role", "worker=worker", "--jwt-role", "admin=admin"),
)
"""The options of a server that takes these tokens, besides `--jwt-keys`."""
