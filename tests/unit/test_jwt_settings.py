"""The settings of a server that takes JWTs."""

import pytest

from composerd.settings import SettingsError, load

from .test_settings import HOME

JWT = {"jwt_keys": [__file__], "jwt_issuer": "https://sso.example.com", "jwt_audience": "composer"}
JWT_ROLES = {"jwt_role_claim": "roles", "jwt_role": ["builders=worker"]}


@pytest.mark.parametrize("name", ["jwt_issuer", "jwt_audience", "jwt_role", "jwt_role_claim"])
def test_settings_that_jwts_need(name: str) -> None:
    """Without an issuer, an audience, or one half of the mapping to roles, a server that takes JWTs does not start."""
    given = JWT | JWT_ROLES
    assert load(given, HOME, None).protected
    del given[name]
    with pytest.raises(SettingsError, match=f"requires {name}"):
        load(given, HOME, None)


@pytest.mark.parametrize("name", ["jwt_issuer", "jwt_audience", "jwt_tenant_claim", "jwt_default_role", "jwt_acl"])
def test_settings_without_keys(name: str) -> None:
    """A setting about JWTs is an error without keys for them."""
    value = "worker" if name == "jwt_default_role" else __file__
    with pytest.raises(SettingsError, match=f"{name} requires jwt_keys"):
        load({name: [value] if name == "jwt_tenant_claim" else value}, HOME, None)


def test_jwts_need_roles() -> None:
    """Without any way to a role, a server that takes JWTs does not start; a default role is enough."""
    with pytest.raises(SettingsError, match="jwt_keys requires jwt_default_role, or jwt_role_claim and jwt_role"):
        load(JWT, HOME, None)
    assert load(JWT | {"jwt_default_role": "viewer"}, HOME, None).jwt_default_role == "viewer"


def test_the_value_of_a_role_may_have_an_equals_sign() -> None:
    """A mapping to a role is split at its last equals sign."""
    settings = load(JWT | JWT_ROLES | {"jwt_role": ["cn=builders,dc=x=worker", "a=admin"]}, HOME, None)
    assert settings.jwt_role == (("cn=builders,dc=x", "worker"), ("a", "admin"))


@pytest.mark.parametrize(
    "place",
    [
        "http://10.0.0.1/keys",
        "http://sso.example.com/keys",
        "ftp://127.0.0.1/keys",
        "file:///etc/keys.json",
        "https:///keys",
        "https://user:password@sso.example.com/keys",
        "http://127.0.0.1@sso.example.com/keys",
        "https://sso.example.com:99999/keys",
        "https://sso.example.com/keys#x",
        "/nowhere/keys.json",
    ],
)
def test_places_that_keys_are_not_taken_from(place: str) -> None:
    """Keys come with TLS, from this machine, or from a file, and a URL has no password."""
    with pytest.raises(SettingsError, match="invalid value for --jwt-keys") as refused:
        load(JWT | JWT_ROLES | {"jwt_keys": [place]}, HOME, None)
    assert "user:password" not in str(refused.value)


@pytest.mark.parametrize(
    "place", ["https://sso.example.com/keys?p=a", "http://127.0.0.1:8080/keys", "http://[::1]/", "http://localhost/k"]
)
def test_places_that_keys_are_taken_from(place: str) -> None:
    """Keys may be fetched with TLS from anywhere, and without it from this machine."""
    assert load(JWT | JWT_ROLES | {"jwt_keys": [place]}, HOME, None).jwt_keys == (place,)
