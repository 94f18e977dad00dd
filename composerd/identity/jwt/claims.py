"""The identity that the claims of a verified token stand for: its name, its role and its tenant."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from composerd.errors import NotAllowed, NotAuthenticated, TenantMissing
from composerd.identity.roles import Role
from composerd.identity.values import LONGEST_NAME, LONGEST_TENANT, Identity
from composerd_protocol.words import is_word

NAMES = ("sub", "client_id", "azp")
"""The claims that name an identity; the first that is there counts."""

_END = 253402300799
"""The last second of the year 9999: what expires later does so then."""

_EVERY_TENANT = frozenset({Role.ADMIN, Role.MONITOR})
"""Roles that belong to no tenant if the claims name none."""


class JwtClaims(msgspec.Struct, frozen=True, kw_only=True):
    """Rules by which identities are made of claims."""

    tenant_claims: Sequence[str] = ()
    """The claims that name the tenant; the first that is there counts. Without any, nobody has a tenant."""
    role_claim: str | None = None
    roles: Sequence[tuple[str, Role]] = ()
    """Values of the role claim, and the role of each; the first that fits counts."""
    default_role: Role | None = None
    """The role of identities for which no value fits."""

    def identity(self, claims: Mapping[str, Any]) -> Identity:
        """Return the identity that verified claims stand for.

        Raises `NotAuthenticated` without a name, `NotAllowed` without a role and `TenantMissing` without a tenant.
        """
        name = _name(claims)
        role = self._role(claims)
        if role is None:
            raise NotAllowed(f"JWT of {name!r}: its claims give it no role", problem="its claims give it no role")
        tenant = self._tenant(claims)
        if tenant is None and self.tenant_claims and role not in _EVERY_TENANT:
            problem = f"it has none of the claims {', '.join(self.tenant_claims)}"
            raise TenantMissing(f"JWT of {name!r}: {problem}", problem=problem)
        return Identity(name, role, tenant, "jwt", float(min(int(claims["exp"]), _END)))

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        found = None if self.role_claim is None else find(claims, self.role_claim)
        values = {found, *found.split()} if isinstance(found, str) else set()
        if isinstance(found, list):
            values = {value for value in found if isinstance(value, str)}
        return next((role for value, role in self.roles if value in values), self.default_role)

    def _tenant(self, claims: Mapping[str, Any]) -> str | None:
        for name in self.tenant_claims:
            found = find(claims, name)
            if isinstance(found, int) and not isinstance(found, bool):
                found = str(found)
            if isinstance(found, str) and found:
                if len(found) > LONGEST_TENANT or not is_word(found):
                    problem = f"its claim {name} is not a word of at most {LONGEST_TENANT} characters"
                    raise TenantMissing(f"JWT of {_name(claims)!r}: {problem}", problem=problem)
                return found
        return None


def find(claims: Mapping[str, Any], path: str) -> Any:
    """Return the value of a claim, or None.

    Dots in `path` separate the names of nested claims. A name that has dots itself comes first: where both are there,
    the claim `a.b` is found rather than `b` in the claim `a`.
    """
    if path in claims:
        return claims[path]
    end = path.find(".")
    while end >= 0:
        nested = claims.get(path[:end])
        if isinstance(nested, dict) and (found := find(nested, path[end + 1 :])) is not None:
            return found
        end = path.find(".", end + 1)
    return None


def _name(claims: Mapping[str, Any]) -> str:
    """Return the name of an identity. Raises `NotAuthenticated` if there is none that can be shown."""
    name = next((found for claim in NAMES if isinstance(found := claims.get(claim), str) and found), "")
    if not name:
        raise NotAuthenticated(sent=True, problem=f"the JWT has none of the claims {', '.join(NAMES)}")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise NotAuthenticated(
            sent=True, problem=f"the name in the JWT is longer than {LONGEST_NAME} characters, or not printable"
        )
    return name
