"""Credentials of a client that may do everything, for servers with identities."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example"
AUDIENCE = "composerd"


class Credentials(msgspec.Struct, frozen=True):
    """A bearer token, and the options of a server that accepts it."""

    token: str
    options: Sequence[str]


def opaque(directory: Path) -> Credentials:
    """Create a tokens file in a directory, with one token."""
    path = directory / "tokens"
    script = Path(sys.executable).with_name("composerd")
    command = [str(script), "token", "create", "--tokens", str(path), "--name", "benchmark", "--role", "admin"]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Credentials(made.stdout.strip(), ["--tokens", str(path)])


def rs256(directory: Path) -> Credentials:
    """Create an RSA key in a directory, and a token that it has signed."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return _jwt(directory, key, "RS256", RSAAlgorithm.to_jwk(key.public_key(), as_dict=True))


def es256(directory: Path) -> Credentials:
    """Create a key on the curve P-256 in a directory, and a token that it has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _jwt(directory, key, "ES256", ECAlgorithm.to_jwk(key.public_key(), as_dict=True))


def _jwt(
    directory: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, algorithm: str, public: dict[str, object]
) -> Credentials:
    path = directory / f"{algorithm}.json"
    path.write_bytes(msgspec.json.encode({"keys": [{**public, "kid": algorithm, "alg": algorithm, "use": "sig"}]}))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "benchmark", "exp": int(time.time()) + 86400}
    options = ["--jwt-keys", str(path), "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE]
    token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": algorithm})
    return Credentials(token, [*options, "--jwt-default-role", "admin"])
