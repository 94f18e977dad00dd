"""Failures of commands: one sentence on stderr, and an exit code that tells scripts what happened."""

import click

from composerd_protocol.escaping import escaped
from composerd_protocol.exit_codes import FAILED


class Failure(click.ClickException):
    """The error that ends a command: its message is printed, and its exit code is the process's.

    Control characters in the message are escaped: it may quote a server or a worker.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(escaped(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click also reads it from the instance
