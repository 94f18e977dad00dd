"""The arguments of a client, from the options of a command, the environment and a profile."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from composerd_client.credentials.oauth import OAuth
from composerd_client.credentials.tokens import Credentials, Token, TokenFile

if TYPE_CHECKING:
    from composerd_protocol.server_settings import ServerSettings


def client_arguments(*, environ: Mapping[str, str] = os.environ, **options: Any) -> dict[str, Any]:
    """Return the keyword arguments with which a command would make a client: those that the settings name.

    >>> composer = ComposerClient(**client_arguments(profile="staging"))

    `options` are those that each command has, such as `server`, `token_file` and `profile`. What they do not name comes
    from the environment and from the profile of the user. Raises `ValueError` if one of these cannot be used.
    """
    from composerd_protocol.server_settings import server_settings  # noqa: PLC0415  # few programs need them

    settings = server_settings(options, environ)
    names = ("server", "ca_file", "cert_file", "key_file", "proxy")
    found = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    credentials = _credentials(settings)
    return found if credentials is None else {**found, "credentials": credentials}


def _credentials(settings: "ServerSettings") -> Credentials | None:
    if settings.token_file is not None:
        return TokenFile(settings.token_file, insecure_http=settings.insecure_http)
    if settings.token is not None:
        return Token(settings.token, insecure_http=settings.insecure_http)
    if settings.oauth:
        oauth: dict[str, Any] = dict(settings.oauth)
        return OAuth(proxy=settings.proxy, insecure_http=settings.insecure_http, **oauth)
    return None
