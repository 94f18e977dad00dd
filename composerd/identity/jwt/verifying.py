"""Verification of the signature and of the registered claims of a token, all of it by PyJWT.

Read here before that is only the header, which names a key, and what the log says of a refused token.
"""

import base64
import binascii
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import jwt

from composerd.errors import NotAuthenticated
from composerd.identity.jwt.claims import NAMES
from composerd.identity.jwt.keys import ALGORITHMS, Key
from composerd_protocol.escaping import escaped

LEEWAY = 30.0
"""Seconds by which the clock of the issuer may differ from this one."""

LONGEST_SHOWN = 80
"""The most characters of a value from a refused token in the log."""

_UNITS = (("days", 86400), ("h", 3600), ("min", 60))


class Verifier:
    """Verifies tokens of one issuer for one audience."""

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._jwt = jwt.PyJWT({"require": ["iss", "aud", "exp"], "enforce_minimum_key_length": True})

    def verify(self, token: str, keys: Sequence[Key]) -> Mapping[str, Any]:
        """Return the claims of a token that was signed with one of the keys. Raises `NotAuthenticated`.

        Keycloak signs ID tokens with the keys of access tokens, and tells them apart by the claim `typ`.
        """
        try:
            claims = self._verified(token, keys)
        except jwt.PyJWTError as exc:
            raise self._refusal(token, exc) from exc
        kind = claims.get("typ", "Bearer")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise refusal(token, f"it is not an access token: its claim typ is {_shown(kind)}")
        return claims

    def _verified(self, token: str, keys: Sequence[Key]) -> Mapping[str, Any]:
        for key in keys[:-1]:
            with suppress(jwt.InvalidSignatureError):
                return self._claims(token, key)
        return self._claims(token, keys[-1])

    def _claims(self, token: str, key: Key) -> Mapping[str, Any]:
        return self._jwt.decode(
            token,
            key.public,
            algorithms=sorted(key.algorithms),
            issuer=self._issuer,
            audience=self._audience,
            leeway=LEEWAY,
        )

    def _refusal(self, token: str, error: jwt.PyJWTError) -> NotAuthenticated:
        claims = _decoded(token.split(".")[1]) or {}
        reason = said = f"the token is invalid: {str(error)[:LONGEST_SHOWN]}"
        if isinstance(error, jwt.InvalidSignatureError):
            reason = said = "its signature is wrong"
        elif isinstance(error, jwt.ExpiredSignatureError):
            reason = said = f"it expired {_distance(claims.get('exp'))} ago"
        elif isinstance(error, jwt.ImmatureSignatureError):
            later = max((claims[name] for name in ("nbf", "iat") if _is_number(claims.get(name))), default=None)
            reason = said = f"it is not yet valid; it will be in {_distance(later)}"
        elif isinstance(error, jwt.MissingRequiredClaimError):
            reason = said = f"it has no claim {error.claim}"
        elif isinstance(error, jwt.InvalidIssuerError):
            said = "its issuer is another one than that of this server"
            reason = f"its issuer is {_shown(claims.get('iss'))}, and not {self._issuer}"
        elif isinstance(error, jwt.InvalidAudienceError):
            said = "it is not for the audience of this server"
            reason = f"its audience is {_shown(claims.get('aud'))}, and not {self._audience}"
        return refusal(token, reason, said, expired=isinstance(error, jwt.ExpiredSignatureError))


def header_of(token: str) -> tuple[str | None, str]:
    """Return the id of the key that a token names, and the algorithm. Raises `NotAuthenticated`."""
    parts = token.split(".")
    if len(parts) == 5:
        raise refusal(token, "it is encrypted (JWE), which is not supported")
    header = _decoded(parts[0]) if len(parts) == 3 else None
    if header is None:
        raise refusal(token, "it is malformed")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise refusal(token, f"its algorithm is {_shown(algorithm)}, and not one of {', '.join(sorted(ALGORITHMS))}")
    if not isinstance(key_id, str | None):
        raise refusal(token, "its kid is not a text")
    return key_id, algorithm


def unknown_key(token: str, key_id: str | None, algorithm: str, *, known: bool) -> NotAuthenticated:
    """Return the error for a token for which there is no key. `known` is True if there is one for other algorithms."""
    if key_id is None:
        return refusal(token, "it names no key (kid), and there is not exactly one key that fits its algorithm")
    if known:
        return refusal(token, f"its algorithm, {algorithm}, is not one of the key that it names")
    return refusal(token, f"it names the key {_shown(key_id)}, which is unknown", "it names an unknown key (kid)")


def refusal(token: str, reason: str, said: str = "", *, expired: bool = False) -> NotAuthenticated:
    """Return the error for a refused token. `reason` is for the log, and `said` for the client if that is to know less.

    The log also says whose the token claims to be. The token itself is in neither.
    """
    claims = _decoded(token.split(".")[1]) if token.count(".") == 2 else None
    subject = "unknown" if claims is None else next((_shown(claims[n]) for n in NAMES if n in claims), "unknown")
    logged = f"JWT of claimed subject {subject}: {reason}"
    return NotAuthenticated(logged, sent=True, expired=expired, problem=said or reason)


def _decoded(segment: str) -> dict[str, Any] | None:
    """Return the object in a segment of a token, whose signature may be wrong; None if there is none."""
    try:
        found = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _shown(value: Any) -> str:
    """Return a value of a claim for the log: without control characters, and not long."""
    try:
        text = repr(escaped(value)) if isinstance(value, str) else json.dumps(value)
    except RecursionError:  # writing it may take more of the stack than reading it did
        return "nested too deeply"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _distance(moment: Any) -> str:
    """Return the time between now and a moment of a claim, in words."""
    if not _is_number(moment) or not abs(moment) < 1e12:
        return "an unknown time"
    seconds = abs(time.time() - moment)
    unit, size = next(((unit, size) for unit, size in _UNITS if seconds >= 2 * size), ("s", 1))
    return f"{seconds / size:.0f} {unit}"
