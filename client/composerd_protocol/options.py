"""The options of commands: a table row says all about one, so that every command line that has it is built alike."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from composerd_protocol.words import is_word

DEFAULT_SERVER = "http://127.0.0.1:8700"

PROFILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Option(NamedTuple):
    """One option of a command."""

    flag: str
    """Its name on the command line."""
    name: str
    """The name of the argument that gets its value."""
    help: str
    metavar: str | None = None
    """The word for its value in the help; None if it takes no value."""
    parse: Callable[[str], Any] = str
    """Turns text into a value. Raises `ValueError` with a message that says what is wrong."""
    default: str | None = None
    variable: str | None = None
    """The environment variable that has its value if the command line has none."""
    shown_default: str | None = None
    """The default in the help, if it is not a value that the option takes."""
    repeatable: bool = False
    required: bool = False

    @property
    def shown_help(self) -> str:
        """Its help with the variable and the default."""
        text = self.help if self.variable is None else f"{self.help} Environment: {self.variable}."
        default = self.default if self.shown_default is None else self.shown_default
        return text if default is None else f"{text}  [default: {default}]"


def word(text: str) -> str:
    """Accept a text that a server accepts as the name of a type or an architecture."""
    if not text or not is_word(text):
        raise ValueError(f"{text!r} must not be empty, and must not have white space or control characters")
    return text


def profile_name(text: str) -> str:
    """Accept a text that may name a profile; an empty one stands for none."""
    if text and not PROFILE_NAME.fullmatch(text):
        raise ValueError(f"{text[:64]!r} is not the name of a profile: use letters, digits, - and _")
    return text


def _authentication(text: str) -> str:
    if text not in ("basic", "post"):
        raise ValueError(f"{text[:40]!r} is neither basic nor post")
    return text


SERVER_OPTIONS: Sequence[Option] = (
    Option(
        flag="--server",
        name="server",
        metavar="URL",
        variable="COMPOSERD_SERVER",
        shown_default=f"that of the profile, or {DEFAULT_SERVER}",
        help="Server: http://HOST:PORT, https://HOST/PREFIX or unix:/path.",
    ),
    Option(
        flag="--ca-file",
        name="ca_file",
        metavar="FILE",
        variable="COMPOSERD_CA_FILE",
        help="For https: PEM file of the CA that signed the server's certificate.",
    ),
    Option(
        flag="--cert-file",
        name="cert_file",
        metavar="FILE",
        variable="COMPOSERD_CERT_FILE",
        help="For https: PEM file of the client certificate.",
    ),
    Option(
        flag="--key-file",
        name="key_file",
        metavar="FILE",
        variable="COMPOSERD_KEY_FILE",
        help="For https: PEM file of the client certificate's key.",
    ),
    Option(
        flag="--proxy",
        name="proxy",
        metavar="URL",
        variable="COMPOSERD_PROXY",
        help="HTTP proxy instead of that of http_proxy or https_proxy; empty for none.",
    ),
    Option(
        flag="--token-file",
        name="token_file",
        metavar="FILE",
        variable="COMPOSERD_TOKEN_FILE",
        help="File with the token that says who you are; without it COMPOSERD_TOKEN has the token.",
    ),
    Option(
        flag="--profile",
        name="profile",
        metavar="NAME",
        parse=profile_name,
        variable="COMPOSERD_PROFILE",
        shown_default="default, if it is for the server",
        help="Profile that `composerd login` has made; empty for none.",
    ),
    Option(
        flag="--insecure-http",
        name="insecure_http",
        help="Send the token also over plain HTTP, where everybody on the way can read it.",
    ),
)
"""The options that every command for a server has."""

TOKEN_VARIABLE = "COMPOSERD_TOKEN"  # noqa: S105  # the name of the variable
"""The environment variable with a token. No option has one, because everybody can read a command line."""

OAUTH_OPTIONS: Sequence[Option] = (
    Option(
        flag="--oauth-token-url",
        name="token_url",
        metavar="URL",
        variable="COMPOSERD_OAUTH_TOKEN_URL",
        help="Token endpoint of the token server.",
    ),
    Option(
        flag="--oauth-client-id",
        name="client_id",
        metavar="ID",
        variable="COMPOSERD_OAUTH_CLIENT_ID",
        help="Id of the client there.",
    ),
    Option(
        flag="--oauth-client-secret-file",
        name="client_secret_file",
        metavar="FILE",
        variable="COMPOSERD_OAUTH_CLIENT_SECRET_FILE",
        help="File with the secret of the client.",
    ),
    Option(
        flag="--oauth-refresh-token-file",
        name="refresh_token_file",
        metavar="FILE",
        variable="COMPOSERD_OAUTH_REFRESH_TOKEN_FILE",
        help="File with a refresh token, which is replaced there when the token server gives a new one.",
    ),
    Option(
        flag="--oauth-scope",
        name="scope",
        metavar="SCOPE",
        variable="COMPOSERD_OAUTH_SCOPE",
        help="Scope of the tokens to ask for.",
    ),
    Option(
        flag="--oauth-audience",
        name="audience",
        metavar="AUDIENCE",
        variable="COMPOSERD_OAUTH_AUDIENCE",
        help="Audience of the tokens to ask for.",
    ),
    Option(
        flag="--oauth-resource",
        name="resource",
        metavar="URI",
        variable="COMPOSERD_OAUTH_RESOURCE",
        help="Resource of the tokens to ask for.",
    ),
    Option(
        flag="--oauth-client-authentication",
        name="client_authentication",
        metavar="basic|post",
        parse=_authentication,
        variable="COMPOSERD_OAUTH_CLIENT_AUTHENTICATION",
        shown_default="basic",
        help="Send the client secret in the header (basic) or in the form (post).",
    ),
    Option(
        flag="--oauth-ca-file",
        name="ca_file",
        metavar="FILE",
        variable="COMPOSERD_OAUTH_CA_FILE",
        help="PEM file of the CA of the token server.",
    ),
)
"""The settings of a token server. They are in the environment or in a profile, and options of `composerd login`."""

OAUTH_SECRETS = {
    "client_secret": "COMPOSERD_OAUTH_CLIENT_SECRET",
    "refresh_token": "COMPOSERD_OAUTH_REFRESH_TOKEN",
}
"""The secrets of a token server that the environment may have, with their variables."""

CLIENT_VARIABLES = frozenset({TOKEN_VARIABLE, *OAUTH_SECRETS.values()}) | {
    option.variable for option in (*SERVER_OPTIONS, *OAUTH_OPTIONS) if option.variable is not None
}
"""The environment variables of commands for a server."""

PASSED_ON = frozenset({"COMPOSERD_SERVER", "COMPOSERD_CA_FILE", "COMPOSERD_CERT_FILE", "COMPOSERD_KEY_FILE"})
"""Those of them that a worker's commands get. The others have secrets, or lead to them."""
