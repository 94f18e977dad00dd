"""The options that name the server of a command, and what a command gets for them."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from composerd.cli.options import with_options
from composerd_protocol.options import SERVER_OPTIONS

if TYPE_CHECKING:
    from composerd_client import ComposerClient

F = TypeVar("F", bound=Callable[..., Any])


class Server:
    """The server that a command is for, and how it is reached."""

    def __init__(self, **options: Any) -> None:
        """Take the values of `SERVER_OPTIONS`."""
        self._options = options

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the clients: the address, the files for TLS, the proxy and the credentials.

        Raises `ValueError` if they cannot be used.
        """
        from composerd_client.arguments import client_arguments

        return client_arguments(**self._options)

    @property
    def url(self) -> str:
        """The address of the server."""
        return str(self.arguments["server"])

    def composer(self, patience: float = 0.0) -> "ComposerClient":
        """Create a client of the server's composer API."""
        from composerd_client import ComposerClient

        return ComposerClient(patience=patience, **self.arguments)


def server_option(command: F) -> F:
    """Add the options that name the server to a command, and pass it a `Server` as `server`."""
    return _with_server(command, with_options(SERVER_OPTIONS))


def server_argument(command: F) -> F:
    """Add an argument that names the server, and the other options; pass them on as `server_option` does."""
    others = with_options([option for option in SERVER_OPTIONS if option.name != "server"])
    return click.argument("server", metavar="URL")(_with_server(command, others))


def _with_server(command: F, decorate: Callable[[F], F]) -> F:
    @functools.wraps(command)
    def with_server(*args: Any, **options: Any) -> Any:
        from composerd.cli.running.console import print_warnings

        print_warnings()
        given = {option.name: options.pop(option.name, None) for option in SERVER_OPTIONS}
        return command(*args, server=Server(**given), **options)

    return decorate(cast("F", with_server))
