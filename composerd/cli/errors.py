"""How commands fail: one sentence on stderr, and an exit code that scripts can tell apart."""

import click

FAILED = 1
"""The job or the request failed."""
WRONG = 2
"""The command line or the configuration is wrong."""
UNREACHABLE = 3
"""The server cannot be reached."""


class Failure(click.ClickException):
    """What a command ends with when it cannot do what it was asked."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance as well
