"""Identities from the JWTs of an identity provider, such as the access tokens of OAuth 2.0."""

from composerd.identity.jwt.claims import JwtClaims
from composerd.identity.jwt.source import JwtSource

__all__ = ["JwtClaims", "JwtSource"]
