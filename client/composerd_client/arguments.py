"""The arguments of a client, from the options of a command and the environment."""

import os
from collections.abc import Mapping
from typing import Any

from composerd_client.credentials.tokens import Credentials, Token, TokenFile
from composerd_protocol.options import SERVER_OPTIONS, TOKEN_VARIABLE

_OF_CREDENTIALS = frozenset({"token_file", "insecure_http"})
"""The names of the options that are no arguments of a client."""


def client_arguments(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the keyword arguments of a client for the options of a command, without those that have no value.

    Raises `ValueError` if the credentials cannot be used.
    """
    names = {option.name for option in SERVER_OPTIONS} - _OF_CREDENTIALS
    found = {name: options[name] for name in names if options.get(name) is not None}
    credentials = _credentials(options, environ)
    return found if credentials is None else {**found, "credentials": credentials}


def _credentials(options: Mapping[str, Any], environ: Mapping[str, str]) -> Credentials | None:
    insecure_http = bool(options.get("insecure_http"))
    if options.get("token_file"):
        return TokenFile(options["token_file"], insecure_http=insecure_http)
    if token := environ.get(TOKEN_VARIABLE):
        return Token(token, insecure_http=insecure_http)
    return None
