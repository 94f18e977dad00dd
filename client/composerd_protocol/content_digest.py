"""The header Content-Digest (RFC 9530), as the server and its clients send and read it."""

from base64 import b64decode, b64encode

_SIZE = 32
"""Bytes of a SHA-256."""


def content_digest(sha256: str) -> str:
    """Return the header for a body with this SHA-256, which is in hexadecimal."""
    return f"sha-256=:{b64encode(bytes.fromhex(sha256)).decode()}:"


def sha256_in(header: str) -> str | None:
    """Return the SHA-256 in a header in hexadecimal, or None if it has none. Raises `ValueError` if it is malformed."""
    for member in header.split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.lower() == "sha-256":
            encoded = value.partition(";")[0].strip().removeprefix(":").removesuffix(":")
            digest = b64decode(encoded, validate=True)
            if len(digest) != _SIZE:
                raise ValueError("not the size of a SHA-256")
            return digest.hex()
    return None
