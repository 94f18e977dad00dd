"""The options of commands: a table row says all about one, so that every command line that has it is built alike."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from composerd_protocol.words import is_word

DEFAULT_SERVER = "http://127.0.0.1:8700"


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
    repeatable: bool = False
    required: bool = False

    @property
    def shown_help(self) -> str:
        """Its help with the variable and the default."""
        text = self.help if self.variable is None else f"{self.help} Environment: {self.variable}."
        return text if self.default is None else f"{text}  [default: {self.default}]"


def word(text: str) -> str:
    """Accept a text that a server accepts as the name of a type or an architecture."""
    if not text or not is_word(text):
        raise ValueError(f"{text!r} must not be empty, and must not have white space or control characters")
    return text


SERVER_OPTIONS: Sequence[Option] = (
    Option(
        flag="--server",
        name="server",
        metavar="URL",
        variable="COMPOSERD_SERVER",
        default=DEFAULT_SERVER,
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
        flag="--insecure-http",
        name="insecure_http",
        help="Send the token also over plain HTTP, where everybody on the way can read it.",
    ),
)
"""The options that every command for a server has."""

TOKEN_VARIABLE = "COMPOSERD_TOKEN"  # noqa: S105  # the name of the variable
"""The environment variable with a token. No option has one, because everybody can read a command line."""

CLIENT_VARIABLES = frozenset({TOKEN_VARIABLE, *(one.variable for one in SERVER_OPTIONS if one.variable is not None)})
"""The environment variables of commands for a server."""

PASSED_ON = frozenset({"COMPOSERD_SERVER", "COMPOSERD_CA_FILE", "COMPOSERD_CERT_FILE", "COMPOSERD_KEY_FILE"})
"""Those of them that a worker's commands get. The others have secrets, or lead to them."""
