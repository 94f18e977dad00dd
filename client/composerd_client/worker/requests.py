"""Requesting jobs: a request waits on the server, and is repeated until there is a job."""

import asyncio
import logging
import random
import uuid
from collections.abc import Sequence
from functools import partial

import msgspec

from composerd_client.connection import LARGEST_PAYLOAD, Answer, Connection, decoded
from composerd_client.errors import RequestFailed, ServerUnreachable, UnexpectedAnswer
from composerd_client.repeating import FOREVER, Backoff, Rounds, may_pass
from composerd_client.values import Attempt

log = logging.getLogger(__name__)

REQUEST_WAIT = 20.0
"""Seconds that a request for a job waits: less than the idle timeout of common proxies."""

EARLY = 1.0
"""Seconds by which an answer without a job has to come before the end of the wait to be taken for an early one."""

PAUSE = (0.5, 2.0)
"""Seconds of the shortest and the longest pause after such an answer: the server stops, or needs the place."""

_MOST_SLOTS = 1000
"""The largest number of slots that a server accepts."""

_ID_WAS_USED = 44
"""Number of the error for a `request_id` that was used before."""

_ATTEMPT = msgspec.json.Decoder(Attempt)
_encode = msgspec.json.Encoder().encode


class JobRequests:
    """Requests jobs for one worker. `base` is the path of the server's worker API."""

    def __init__(
        self, connection: Connection, base: str, *, worker_id: uuid.UUID, types: Sequence[str], arch: str, slots: int
    ) -> None:
        self._connection = connection
        self._path = f"{base}/jobs"
        self._types = types
        self._body = {"types": types, "arch": arch, "worker_id": str(worker_id), "confirm": True}
        if slots <= _MOST_SLOTS:
            self._body["slots"] = slots

    async def request(self) -> Attempt:
        """Request a job until there is one.

        If this is canceled, the connection is closed, and the server releases a job that it has just assigned. A
        request that is repeated after a failure has the same id, so that a job whose answer was lost is answered again.
        """
        loop = asyncio.get_running_loop()
        request_id = uuid.uuid4()
        backoff = Backoff(refused_for=FOREVER)
        rounds = Rounds()
        while True:
            await rounds.begin()
            began = loop.time()
            try:
                answer = await self._once(request_id)
            except (ServerUnreachable, RequestFailed) as exc:
                if isinstance(exc, RequestFailed) and exc.number == _ID_WAS_USED:
                    request_id = uuid.uuid4()
                    continue
                if isinstance(exc, RequestFailed) and not may_pass(exc):
                    raise
                await backoff.failed(exc, partial(log.warning, "cannot request a job, trying again: %s"))
                continue
            if answer.status == 201:
                return self._requested(decoded(answer.body, _ATTEMPT))
            request_id = uuid.uuid4()
            backoff = Backoff(refused_for=FOREVER)
            if loop.time() - began < REQUEST_WAIT - EARLY:
                await asyncio.sleep(random.uniform(*PAUSE))

    async def _once(self, request_id: uuid.UUID) -> Answer:
        """Request a job once."""
        return await self._connection.request(
            "POST",
            self._path,
            body=_encode({**self._body, "request_id": str(request_id)}),
            query={"wait": f"{REQUEST_WAIT:.0f}s"},
            wait=REQUEST_WAIT,
            largest=LARGEST_PAYLOAD,
        )

    def _requested(self, attempt: Attempt) -> Attempt:
        """Return the attempt. Raises `UnexpectedAnswer` if it is of a type that was not requested."""
        if attempt.type not in self._types:
            raise UnexpectedAnswer(f"the server sent a job of the type {attempt.type[:100]!r}, which was not requested")
        return attempt
