"""Facts about the request that is being served, as context variables, so that log lines and errors can name them."""

from contextvars import ContextVar

REQUEST_ID_HEADER = "X-Operation-Id"
"""The answer's header with the request id; its name is part of the protocol."""

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request; the protocol calls it the operation id."""

known_job_id: ContextVar[str | None] = ContextVar("known_job_id", default=None)
"""The id of the job that the request is about, once it is known."""

client: ContextVar[str] = ContextVar("client", default="")
"""The client that sent the request, as `composerd.http.clients` names it. Each gets a share of what is scarce."""

reserved_bytes: ContextVar[int] = ContextVar("reserved_bytes", default=0)
"""Bytes that the request body has reserved in the queue's budget; `RequestBoundary` gives them back."""
