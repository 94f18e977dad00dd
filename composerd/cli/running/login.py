"""`composerd login`, `logout` and `whoami`: who the user is for a server."""

import os
import sys
from typing import Any

import click

from composerd.cli.errors import Failure
from composerd.cli.running.console import print_fields, print_json, print_warnings, run, say
from composerd.cli.running.profile_file import ProfileFile
from composerd.cli.server import Server
from composerd_client import ComposerClient, Credentials, Identity, OAuth, Token, TokenFile
from composerd_client.credentials.tokens import LARGEST, checked_token
from composerd_protocol.bearer_tokens import PREFIX
from composerd_protocol.exit_codes import WRONG
from composerd_protocol.profiles import DEFAULT_PROFILE
from composerd_protocol.server_settings import same_origin
from composerd_protocol.times import rfc3339

_WAY = ("ca_file", "cert_file", "key_file", "proxy")
"""The settings that say how a server is reached, which are arguments of the clients."""

_KEPT = (*_WAY, "insecure_http")
"""The settings that a profile keeps when it is stored again for its server."""


def whoami(server: Server, as_json: bool) -> None:
    """Show who the server takes the user for."""

    async def show() -> None:
        async with server.composer() as composer:
            if as_json:
                print_json(await composer.whoami_json())
            else:
                _print(await composer.whoami())

    run(show())


def login(server: str | None, profile: str | None, insecure_http: bool, **options: str | None) -> None:
    """Store who the user is for a server, once the server has said so."""
    print_warnings()
    run(_login(server, profile or DEFAULT_PROFILE, insecure_http, {k: v for k, v in options.items() if v is not None}))


async def _login(server: str | None, name: str, insecure_http: bool, given: dict[str, str]) -> None:
    file = ProfileFile()
    known = file.profiles.get(name)
    server = server or (None if known is None else known.values["server"])
    if server is None:
        raise Failure("name the URL of the server: composerd login URL", WRONG)
    oauth = {
        key.removeprefix("oauth_"): _absolute(key, value) for key, value in given.items() if key.startswith("oauth_")
    }
    values: dict[str, Any] = {"server": server}
    if known is not None and same_origin(server, known.values["server"]):
        values |= {key: known.values[key] for key in _KEPT if key in known.values}
    values |= {key: _absolute(key, value) for key, value in given.items() if not key.startswith("oauth_")}
    if insecure_http:
        values["insecure_http"] = True
    if oauth:
        values["oauth"] = oauth
    way = {key: values[key] for key in _WAY if key in values}
    ComposerClient(server, **way)  # raises an error before anything is asked for
    secret = _secret(server, values)
    credentials = _credentials(values, secret)
    async with ComposerClient(server, patience=0.0, credentials=credentials, **way) as composer:
        identity = await composer.whoami()
    file.store(name, values, secret)
    _print(identity)
    say(f"stored as the profile {name!r} in {file.path}", err=True)


def logout(profile: str | None) -> None:
    """Remove a profile and its secret."""

    async def remove() -> None:
        name = profile or DEFAULT_PROFILE
        file = ProfileFile()
        if name not in file.profiles:
            raise Failure(f"{file.path} has no profile {name!r}")
        file.remove(name)
        say(f"removed the profile {name!r}")

    run(remove())


def _absolute(key: str, value: str) -> str:
    """Return the value of an option as it is stored: a file with its absolute path."""
    return os.path.abspath(value) if key.endswith("_file") else value  # noqa: PTH100  # links stay, which may change


def _secret(server: str, values: dict[str, Any]) -> tuple[str, str] | None:
    """Return the key and the text of the secret that the user is asked for; None if the options name files."""
    oauth = values.get("oauth")
    if oauth is not None:
        if "token_file" in values:
            raise Failure("--token-file cannot be combined with a token server: leave one out", WRONG)
        if "token_url" not in oauth:
            raise Failure("--oauth-token-url is missing: the URL of the token endpoint", WRONG)
        if "client_secret_file" in oauth or "refresh_token_file" in oauth:
            return None
        _credentials(values, ("client_secret", "not known yet"))  # raises an error before anything is asked for
        return "client_secret", _asked("Client secret")
    if "token_file" in values or "cert_file" in values or server.startswith("unix:"):
        return None
    token = _asked("Token")
    if not token.startswith(PREFIX) and token.count(".") != 2:
        raise Failure(f"this is neither a token of composerd, which begins with {PREFIX}, nor a JWT", WRONG)
    return "token", checked_token(token, "the token")


def _credentials(values: dict[str, Any], secret: tuple[str, str] | None) -> Credentials | None:
    insecure_http = values.get("insecure_http", False)
    if "oauth" in values:
        oauth: dict[str, Any] = {**values["oauth"], **dict([secret] if secret else [])}
        return OAuth(proxy=values.get("proxy"), insecure_http=insecure_http, **oauth)
    if secret is not None:
        return Token(secret[1], insecure_http=insecure_http)
    return TokenFile(values["token_file"], insecure_http=insecure_http) if "token_file" in values else None


def _asked(what: str) -> str:
    """Return a secret of a user at a terminal, without showing it, or from stdin."""
    if sys.stdin is not None and sys.stdin.isatty():
        text = click.prompt(what, hide_input=True, err=True, default="", show_default=False)
    else:
        text = "" if sys.stdin is None else sys.stdin.read(LARGEST)
    if not text.strip():
        raise Failure(f"{what} is missing: type it at a terminal, or write it to stdin", WRONG)
    return str(text).strip()


def _print(identity: Identity) -> None:
    if identity.source is None:
        say("this server does not ask who its clients are: everybody may do everything")
        return
    ends = None if identity.expires_at is None else rfc3339(identity.expires_at)
    fields = {
        "name": identity.name,
        "role": identity.role,
        "tenant": identity.tenant,
        "channel": identity.channel,
        "source": identity.source,
        "expires_at": ends,
    }
    print_fields({name: value for name, value in fields.items() if value})
