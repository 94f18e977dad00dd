"""Requesting jobs: a request waits on the server, and is repeated until there is a job."""

import asyncio
import random
import uuid
from collections.abc import Sequence

import msgspec

from composerd_client.answers import Expected
from composerd_client.connection import LARGEST_PAYLOAD, Answer, Connection, decoded
from composerd_client.errors import RequestFailed
from composerd_client.repeating import FOREVER, Rounds
from composerd_client.values import Attempt

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
        rounds = Rounds()
        while True:
            await rounds.begin()
            began = loop.time()
            try:
                answer = await self._ask()
            except RequestFailed as exc:
                if exc.number != _ID_WAS_USED:
                    raise
                continue
            if answer.status == 201:
                return decoded(answer.body, _ATTEMPT)
            if loop.time() - began < answer.wait - EARLY:
                await asyncio.sleep(random.uniform(*PAUSE))

    async def _ask(self) -> Answer:
        """Send a request, and repeat it until composerd answers."""
        return await self._connection.request(
            "POST",
            self._path,
            Expected("RequestJob", (201, 204), check=self._problem),
            body=_encode({**self._body, "request_id": str(uuid.uuid4())}),
            wait=REQUEST_WAIT,
            repeat=True,
            small=True,
            patience=FOREVER,
            largest=LARGEST_PAYLOAD,
            doing="request a job",
        )

    def _problem(self, answer: bytes) -> str | None:
        """Return why an answer has no job for this worker, or None if it has one."""
        attempt = _ATTEMPT.decode(answer)
        if attempt.type not in self._types:
            return f"it has a job of the type {attempt.type[:100]!r}, which was not requested"
        return self._connection.usable(attempt.location)
