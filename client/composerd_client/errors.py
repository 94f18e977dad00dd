"""The errors of the client library."""

import copyreg
from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """The base class of the client's errors."""


class ServerUnreachable(ClientError):
    """The server cannot be reached or does not answer; it may have processed the request or not."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        """False if the request was certainly not sent, because there was no connection."""


class ServerNotTrusted(ServerUnreachable):
    """The server's certificate is not trusted, or the server probably does not trust the client's."""


class ProxyUnreachable(ServerUnreachable):
    """The proxy that the client was told to use cannot be reached, or does not connect to the server."""


class TokenUnavailable(ServerUnreachable):
    """The token server gave no token: it cannot be reached, does not answer, or says that it is unavailable."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class TokenRefused(ClientError):
    """The token server refuses a token; the message has its reason, and says what to do."""


class RequestFailed(ClientError):
    """The server refused a request with one of its predefined errors; a proxy's refusal is a `ProxyAnswered`."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        number = str(body.get("id", ""))
        self.number = int(number) if number.isdecimal() and len(number) < 10 else 0
        """The number of the error in the API's table; 0 if the answer was not from composerd."""
        self.code = str(body.get("code", ""))
        self.reason = str(body.get("reason", f"HTTP {status}"))
        details = body.get("details")
        self.details: Mapping[str, Any] = details if isinstance(details, dict) else {}
        self.operation_id = str(body.get("operation_id", ""))
        """The request id, to search for in the server's log."""
        self.repeated = False
        """True if the request was sent before, and may have been processed then."""
        self.with_token = False
        """True if the request was sent with a token, and was refused with 401."""
        self.retry_after = 0.0
        """Seconds after which the server wants to be asked again; 0 if it does not say."""
        super().__init__(self.reason + _in_brackets(self.details))

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is, and not by its arguments: otherwise a pool of processes that gets this error breaks.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class OutcomeUnknown(RequestFailed):
    """The server does not know whether its storage has made the change (error 40).

    Look, or repeat the request, which is safe if that gives the same answer: for example with an idempotency key.
    """


class UnexpectedAnswer(ClientError):
    """An answer that composerd does not send."""


class ProxyAnswered(RequestFailed, UnexpectedAnswer):
    """Something in between, such as a proxy, has answered instead of composerd, with any status.

    The request may have reached composerd or not. The reason says what to change.
    """

    def __init__(self, status: int, reason: str, proxy: str) -> None:
        super().__init__(status, {"reason": reason})
        self.proxy = proxy
        """The name of the proxy, such as `nginx`; empty if it is not known."""


class LocalFault(Exception):
    """This machine cannot run a job now; the job itself is not at fault.

    A handler raises it, with the reason: the worker then releases the job, so that another worker runs it and no retry
    is counted, and pauses before it requests another one.
    """


class UnsafeName(ClientError):
    """The server names a file that must not be created under this name."""


class DamagedDownload(ClientError):
    """A download does not match the size or the digest of the artifact."""


class DamagedUpload(ClientError):
    """The server has stored other bytes than the client has sent."""


def _in_brackets(details: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name}: {value}' for name, value in details.items())})" if details else ""
