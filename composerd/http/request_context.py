"""Facts about the request that is being served, as context variables, so that log lines and errors can name them."""

from contextvars import ContextVar

from composerd.identity.values import ANYBODY, Identity
from composerd.queue import Account

REQUEST_ID_HEADER = "X-Operation-Id"
"""The answer's header with the request id; its name is part of the protocol."""

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request; the protocol calls it the operation id."""

known_job_id: ContextVar[str | None] = ContextVar("known_job_id", default=None)
"""The id of the job that the request is about, once it is known."""

client: ContextVar[str] = ContextVar("client", default="")
"""The client that sent the request: the key of its identity, or what `composerd.http.clients` makes of its address.

Each gets a share of what is scarce.
"""

identity: ContextVar[Identity] = ContextVar("identity", default=ANYBODY)
"""The identity that sent the request."""


class HeldBody:
    """The bytes of a request's body that have arrived, in the account of its client."""

    def __init__(self, account: Account, client: str) -> None:
        self._account = account
        self._client = client
        self._size = 0

    def grow(self, size: int) -> None:
        """Count so many bytes altogether. Raises `Unavailable` if the client has no room for them."""
        self._account.take(self._client, size - self._size)
        self._size = size

    def free(self) -> None:
        """Stop counting them."""
        if self._size:
            self._account.free(self._client, self._size)


held_body: ContextVar[HeldBody | None] = ContextVar("held_body", default=None)
"""The body of the request, if it counts in an account; `RequestBoundary` gives it back."""
