"""The source of identities that verifies JWTs."""

import asyncio
import hashlib
import time
from collections.abc import Sequence

import msgspec

from composerd.errors import NotAllowed
from composerd.identity.jwt.acl import parse_acl
from composerd.identity.jwt.claims import JwtClaims
from composerd.identity.jwt.key_ring import KeyRing
from composerd.identity.jwt.verifying import LEEWAY, Verifier, header_of, unknown_key
from composerd.identity.values import Identity
from composerd.watched_file import WatchedFile

MOST_VERIFIED = 10_000
"""The most verified tokens that are remembered; after that, the oldest is verified again when it comes."""


SHORT = 2048
"""The most characters of a token that is remembered itself: to hash it for each request would take longer."""


class _Verified(msgspec.Struct, frozen=True):
    """A token that was verified."""

    identity: Identity
    until: float
    """The end of its use, in seconds since 1970."""


class JwtSource:
    """Knows whose JWTs are. A token that was verified is remembered until it expires."""

    def __init__(self, keys: Sequence[str], verifier: Verifier, claims: JwtClaims, acl: str | None = None) -> None:
        """Read the files. Raises `UnusableFile`.

        `keys` are URLs and paths of JWK sets, and `acl` is the path of a file with patterns.
        """
        self._verified: dict[str | bytes, _Verified] = {}
        """By the token, or by the hash of a long one, so that memory is bounded."""
        self._keys = KeyRing(keys, self._verified.clear)
        self._verifier = verifier
        self._claims = claims
        self._acl = None if acl is None else WatchedFile(acl, parse_acl, "jwt_acl")
        if self._acl is not None:
            self._acl.on_change = self._verified.clear

    @property
    def problem(self) -> str | None:
        """A sentence about keys or patterns that somebody has to mend."""
        return self._keys.problem or (None if self._acl is None else self._acl.problem)

    async def run(self) -> None:
        """Keep the keys and the patterns up to date until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keys.run())
            if self._acl is not None:
                group.create_task(self._acl.run())

    def takes(self, token: str) -> bool:
        """Return True for three parts with dots between them, and for five, which are an encrypted token."""
        return token.isascii() and token.count(".") in (2, 4)

    def known(self, token: str) -> Identity | None:
        """Return whose token it is if it was verified and has not expired."""
        found = self._verified.get(_key(token))
        return None if found is None or found.until <= time.time() else found.identity

    async def identify(self, token: str) -> Identity:
        """Verify a token, and return whose it is.

        Raises `NotAuthenticated`, `NotAllowed`, `TenantMissing`, and `Unavailable` if keys that may verify it cannot be
        fetched.
        """
        key_id, algorithm = header_of(token)
        keys = await self._keys.find(key_id, algorithm)
        if not keys:
            raise unknown_key(token, key_id, algorithm, known=key_id is not None and self._keys.knows(key_id))
        claims = self._verifier.verify(token, keys)
        identity = self._claims.identity(claims)
        if self._acl is not None and not self._acl.value.permits(claims):
            problem = "its claims match no pattern of jwt_acl"
            raise NotAllowed(f"JWT of {identity.name!r}: {problem}", problem=problem)
        if len(self._verified) >= MOST_VERIFIED:
            self._verified.pop(next(iter(self._verified)))
        self._verified[_key(token)] = _Verified(identity, int(claims["exp"]) + LEEWAY)
        return identity


def _key(token: str) -> str | bytes:
    return token if len(token) <= SHORT else hashlib.sha256(token.encode(errors="replace")).digest()
