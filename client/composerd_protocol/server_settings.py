"""The settings of a command for a server: from its options, the environment and a profile, the strongest first."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from composerd_protocol.options import DEFAULT_SERVER, OAUTH_OPTIONS, OAUTH_SECRETS, TOKEN_VARIABLE
from composerd_protocol.profiles import Profile, find_profile

_OAUTH = {option.name: option.variable or "" for option in OAUTH_OPTIONS} | OAUTH_SECRETS
"""The variables with the settings of a token server, by the names of the settings."""

_PORTS = {"http": 80, "https": 443}


class ServerSettings(NamedTuple):
    """A server, how it is reached, and who the user is. At most one of `token`, `token_file` and `oauth` is set."""

    server: str
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    proxy: str | None
    insecure_http: bool
    token: str | None
    token_file: str | None
    oauth: Mapping[str, str]
    """The values of `OAUTH_OPTIONS`; empty if there is no token server."""


def server_settings(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> ServerSettings:
    """Return the settings for the values of `SERVER_OPTIONS`, which may come from the environment.

    A profile that was named must be one of the server, if that is named too; the default profile does not count for
    another server. Raises `ValueError` if the profile cannot be used.
    """
    given: Mapping[str, Any] = {name: value for name, value in options.items() if value is not None}
    profile = _profile_for(given, environ)
    base: Mapping[str, Any] = {} if profile is None else profile.values
    pair = given if "cert_file" in given or "key_file" in given else base
    token_file, token, oauth = _identity(given, environ, base)
    return ServerSettings(
        server=given.get("server") or base.get("server") or DEFAULT_SERVER,
        ca_file=given.get("ca_file", base.get("ca_file")),
        cert_file=pair.get("cert_file"),
        key_file=pair.get("key_file"),
        proxy=given.get("proxy", base.get("proxy")),
        insecure_http=bool(given.get("insecure_http") or base.get("insecure_http")),
        token=token,
        token_file=token_file,
        oauth=oauth,
    )


def same_origin(one: str, other: str) -> bool:
    """Return True if two servers have the same scheme, host and port, or are the same socket."""
    return _origin(one) == _origin(other)


def _profile_for(given: Mapping[str, Any], environ: Mapping[str, str]) -> Profile | None:
    name = given.get("profile")
    profile = find_profile(name, environ)
    server = given.get("server")
    if profile is None or not server or same_origin(server, profile.values["server"]):
        return profile
    if name is None:
        return None
    raise ValueError(
        f"the profile {profile.name!r} is for {profile.values['server']}, and not for {server}: leave --profile "
        "(COMPOSERD_PROFILE) or --server (COMPOSERD_SERVER) out"
    )


def _identity(
    given: Mapping[str, Any], environ: Mapping[str, str], base: Mapping[str, Any]
) -> tuple[str | None, str | None, Mapping[str, str]]:
    """Return the token file, the token and the settings of the token server, of which at most one has a value."""
    if given.get("token_file"):
        return given["token_file"], None, {}
    if environ.get(TOKEN_VARIABLE):
        return None, environ[TOKEN_VARIABLE], {}
    told = {name: environ[variable] for name, variable in _OAUTH.items() if environ.get(variable)}
    if "token_url" in told:
        return None, None, told
    oauth = base.get("oauth")
    if oauth is not None:
        replaced = {name.removesuffix("_file") for name in told}
        kept = {name: value for name, value in oauth.items() if name.removesuffix("_file") not in replaced}
        return None, None, {**kept, **told}
    if told:
        raise ValueError(f"{_OAUTH[next(iter(told))]} is set, but {_OAUTH['token_url']}, to which it belongs, is not")
    return base.get("token_file"), base.get("token"), {}


def _origin(server: str) -> tuple[str, str | None, int | None]:
    if server.startswith("unix:"):
        return "unix", server, None
    try:
        parts = urlsplit(server)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", server, None
