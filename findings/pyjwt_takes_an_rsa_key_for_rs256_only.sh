#!/usr/bin/env bash
# PyJWT 2.15.1: an RSA key of a JWK set that names no algorithm is taken for RS256 only, and a private one fails otherwise.
#
# RFC 7517 makes "alg" optional, and some providers leave it out. PyJWKSet then takes the key for RS256, and a token that
# is signed with PS256 is refused, although the caller allows PS256. The bare key (`.key`) verifies it. If the set has the
# private key, which RFC 7517 allows too, `.key` is a private one, for which decode raises AttributeError instead of an
# exception of PyJWT. So who verifies tokens decides by the kind of the key what it is for, and keeps "d" out.
#
# Output seen: "PyJWK: InvalidAlgorithmError, bare key: True, private key: AttributeError"
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q 'pyjwt[crypto]==2.15.1'

"$scratch/venv/bin/python" - <<'PYTHON'
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

private = rsa.generate_private_key(65537, 2048)
token = jwt.encode({"sub": "a"}, private, "PS256", headers={"kid": "a"})


def verified(key):
    try:
        return jwt.decode(token, key, algorithms=["RS256", "PS256"]) == {"sub": "a"}
    except Exception as exc:
        return type(exc).__name__


def key_of(key):
    made = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
    return jwt.PyJWKSet.from_dict({"keys": [made | {"kid": "a"}]})["a"]


public = key_of(private.public_key())
said = f"PyJWK: {verified(public)}, bare key: {verified(public.key)}, private key: {verified(key_of(private).key)}"
print(said)
sys.exit(said != "PyJWK: InvalidAlgorithmError, bare key: True, private key: AttributeError")
PYTHON
