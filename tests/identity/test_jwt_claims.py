"""Claims of a verified token: the identity that they stand for."""

from typing import Any

import pytest

from composerd.errors import NotAllowed, NotAuthenticated, TenantMissing
from composerd.identity.jwt.claims import JwtClaims, find
from composerd.identity.roles import Role

NESTED = {
    "tenant": "acme",
    "org": {"id": "globex", "unit": {"name": "paint"}},
    "org.name": "initech",
    "https://example.com/tenant": "umbrella",
    "resource_access": {"composer.example.com": {"roles": ["builders"]}},
    "none": None,
    "a": {"b.c": 1, "b": {"c": 2}},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tenant", "acme"),
        ("org.id", "globex"),
        ("org.unit.name", "paint"),
        ("org.name", "initech"),
        ("https://example.com/tenant", "umbrella"),
        ("resource_access.composer.example.com.roles", ["builders"]),
        ("a.b.c", 1),
        ("tenant.id", None),
        ("org.", None),
        (".org", None),
        ("none", None),
        ("nothing", None),
    ],
)
def test_paths_of_claims(path: str, value: Any) -> None:
    """A claim is found by its whole name first, and then by the names between dots."""
    assert find(NESTED, path) == value


def given(**changed: Any) -> dict[str, Any]:
    """Return claims with changes."""
    return {"sub": "builder-7", "exp": 2_000_000_000, "tenant": "acme", "roles": ["worker"], **changed}


CLAIMS = JwtClaims(
    tenant_claims=("tenant", "org.id"),
    role_claim="roles",
    roles=(("composer admins", Role.ADMIN), ("worker", Role.WORKER), ("submitter", Role.SUBMITTER)),
)


@pytest.mark.parametrize(
    ("roles", "role"),
    [
        ("worker", Role.WORKER),
        (["other", "worker"], Role.WORKER),
        ("openid submitter", Role.SUBMITTER),
        ("composer admins", Role.ADMIN),
        (["composer admins"], Role.ADMIN),
        (["submitter", "worker"], Role.WORKER),
        ([7, None, "worker"], Role.WORKER),
        (["worker submitter"], None),
        ("workers", None),
        (["WORKER"], None),
        ({"worker": True}, None),
        (True, None),
        (None, None),
    ],
)
def test_roles(roles: Any, role: Role | None) -> None:
    """The role claim is a text, words with spaces between them, or a list; the first mapping that fits counts."""
    if role is not None:
        assert CLAIMS.identity(given(roles=roles)).role is role
        return
    with pytest.raises(NotAllowed):
        CLAIMS.identity(given(roles=roles))
    default = JwtClaims(role_claim="roles", roles=CLAIMS.roles, default_role=Role.VIEWER)
    assert default.identity(given(roles=roles)).role is Role.VIEWER


@pytest.mark.parametrize(
    ("changed", "tenant"),
    [
        ({}, "acme"),
        ({"tenant": 1000}, "1000"),
        ({"tenant": "", "org": {"id": "globex"}}, "globex"),
        ({"tenant": None, "org": {"id": 7}}, "7"),
        ({"tenant": ["acme"], "org": {"id": "globex"}}, "globex"),
        ({"tenant": "a" * 124}, "a" * 124),
        ({"tenant": True}, None),
        ({"tenant": 1.5}, None),
        ({"tenant": {"id": "acme"}}, None),
        ({"tenant": "a" * 125}, None),
        ({"tenant": 10**124}, None),
        ({"tenant": "a b"}, None),
        ({"tenant": "a\n"}, None),
        ({"tenant": "a\u202eb"}, None),
    ],
)
def test_tenants(changed: dict[str, Any], tenant: str | None) -> None:
    """The tenant is the first of the claims that has a text or a whole number, and has to fit into a channel."""
    claims = given(**changed)
    if tenant is None:
        with pytest.raises(TenantMissing):
            CLAIMS.identity(claims)
    else:
        identity = CLAIMS.identity(claims)
        assert identity.tenant == tenant
        assert identity.channel == f"org-{tenant}"
        assert len(identity.channel) <= 128


@pytest.mark.parametrize("role", [Role.ADMIN, Role.MONITOR])
def test_who_needs_no_tenant(role: Role) -> None:
    """Those who look after every tenant need not belong to one."""
    claims = JwtClaims(tenant_claims=("tenant",), default_role=role)
    assert claims.identity(given(tenant=None)).tenant is None
    assert claims.identity(given()).tenant == "acme"
    assert JwtClaims(default_role=Role.WORKER).identity(given()).tenant is None


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "builder-7"),
        ({"client_id": "c", "azp": "a"}, "builder-7"),
        ({"sub": None, "client_id": "c", "azp": "a"}, "c"),
        ({"sub": "", "azp": "a"}, "a"),
        ({"sub": "J\u00f6rg (Betrieb)"}, "J\u00f6rg (Betrieb)"),
        ({"sub": None}, None),
        ({"sub": "a" * 256}, None),
        ({"sub": "a\tb"}, None),
    ],
)
def test_names(changed: dict[str, Any], name: str | None) -> None:
    """The name is the subject, else the client, and is printable."""
    if name is None:
        with pytest.raises(NotAuthenticated):
            CLAIMS.identity(given(**changed))
    else:
        assert CLAIMS.identity(given(**changed)).name == name


@pytest.mark.parametrize(("exp", "end"), [(2_000_000_000, 2e9), (2_000_000_000.7, 2e9), (10**400, 253402300799.0)])
def test_the_end_of_a_token(exp: float, end: float) -> None:
    """An identity ends with its token, and in the year 9999 at the latest."""
    assert CLAIMS.identity(given(exp=exp)).expires_at == end
