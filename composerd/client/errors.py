"""How the client fails."""

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The root of the client's errors."""


class ServerUnreachable(ClientError):
    """The server cannot be reached, or does not answer; whether it did what was asked is unknown."""


class ServerNotTrusted(ServerUnreachable):
    """The server's certificate is not trusted, or the server may not trust the client's."""


class RequestFailed(ClientError):
    """The server refused a request with one of its predefined errors."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        number = str(body.get("id", ""))
        self.number = int(number) if number.isdecimal() else 0
        """The number in the API's table of errors; 0 if what answered was no composerd."""
        self.code = str(body.get("code", ""))
        self.reason = str(body.get("reason", f"HTTP {status}"))
        details = body.get("details")
        self.details: Mapping[str, Any] = details if isinstance(details, dict) else {}
        self.operation_id = str(body.get("operation_id", ""))
        """What to look for in the server's log."""
        super().__init__(self.reason + _in_brackets(self.details))


class UnexpectedAnswer(ClientError):
    """The server has answered what no composerd answers."""


class DamagedDownload(ClientError):
    """What was downloaded does not match its size or sha256."""


def _in_brackets(details: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name}: {value}' for name, value in details.items())})" if details else ""
