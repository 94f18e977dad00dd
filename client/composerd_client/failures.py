"""The sentence and the exit code with which a command ends if its work raises an error."""

from typing import NamedTuple

from composerd_client.errors import (
    ClientError,
    LocalFault,
    OutcomeUnknown,
    ProxyAnswered,
    ProxyUnreachable,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
    TokenUnavailable,
)
from composerd_client.repeating import may_pass
from composerd_protocol.exit_codes import FAILED, UNREACHABLE, WRONG

CHANGE_SERVER = "set --server or COMPOSERD_SERVER"
"""The advice if there is no server."""

_ADVICE = {
    16: "whoever issues the token has to write the tenant into it",
    29: "name a token that it knows: --token-file, COMPOSERD_TOKEN or `composerd login`",
    30: "`composerd whoami` says who the server takes you for",
    46: "whoever runs the server can raise this quota",
}
"""The advice by the number of an error of a server that does not let the client do this."""

_NO_CREDENTIALS = "there are no credentials"
"""The problem that the server names if a request had no token when it arrived."""


class Explained(NamedTuple):
    """The end of a command."""

    message: str
    code: int


def explain(error: Exception, unreachable: str = CHANGE_SERVER) -> Explained | None:
    """Return the message and the exit code for an error; None for one that is neither the user's nor the server's.

    `unreachable` says what to do if there is no server.
    """
    message, code = str(error), FAILED
    match error:
        case ServerNotTrusted():
            message, code = f"{error}; check --ca-file, --cert-file and --key-file", UNREACHABLE
        case ProxyUnreachable():
            message, code = f"{error}; check --proxy, COMPOSERD_PROXY, http_proxy and https_proxy", UNREACHABLE
        case TokenUnavailable():
            code = UNREACHABLE
        case ServerUnreachable():
            message, code = f"{error}; if `composerd serve` does not run there, {unreachable}", UNREACHABLE
        case OutcomeUnknown():
            message = (
                "the server's storage did not answer: this may have been done or not; look with `composerd jobs` or "
                "`composerd status` before you repeat it"
            )
        case RequestFailed():
            message = f"{error}{_advice(error)}"
            code = UNREACHABLE if _is_unavailable(error) else FAILED
        case ClientError() | LocalFault():
            pass
        case UnicodeEncodeError():
            message, code = f"{error.object!r} is not UTF-8", WRONG
        case ValueError():
            code = WRONG
        case OSError() if error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        case _:
            return None
    return Explained(message, code)


def _advice(error: RequestFailed) -> str:
    """Return what to do if the server does not let the client in; empty if it does."""
    advice = _ADVICE.get(error.number)
    if error.with_token and error.details.get("problem") == _NO_CREDENTIALS:
        advice = "a token was sent, so a proxy on the way has taken it away: let it pass on the header Authorization"
    return "" if advice is None else f"; {advice}"


def _is_unavailable(error: RequestFailed) -> bool:
    """Return True if composerd says that it is unavailable, or if something else answers instead of composerd."""
    return may_pass(error) if isinstance(error, ProxyAnswered) else error.status == 503
