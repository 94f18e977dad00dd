"""The server that is probed: requests to it, jobs of types that nobody else has, and their removal."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from yarl import URL

from composerd.ids import parse_uuid
from composerd.probe.wire import Answer, Cut, Wire, ending
from composerd_client.address import Address
from composerd_client.answers import REQUEST_ID_HEADER
from composerd_client.credentials.sending import Sender, check_sendable
from composerd_client.credentials.tokens import Credentials
from composerd_client.errors import ClientError, ServerUnreachable
from composerd_client.forward_proxy import forward_proxy
from composerd_client.proxies import known_proxy, proxy_answer
from composerd_client.tls import tls_context

WORKER = "/api/worker/v1"
COMPOSER = "/api/composer/v1"

ARCH = "probe"

JSON = {"Content-Type": "application/json"}

_ANSWER_WITHIN = 20.0
"""Seconds that an answer may take that needs no wait."""

_AT_ONCE = 10
"""Number of requests with which jobs are removed at the same time."""


class Unexpected(Exception):
    """An answer with which a check cannot go on."""


FAILURES = (Unexpected, ClientError, ConnectionError, LookupError, TypeError, AttributeError)
"""Errors that a check may raise; the last three, if the answers are not composerd's."""


class Target:
    """A server, and what is in front of it."""

    def __init__(self, server: str, options: Mapping[str, Any]) -> None:
        """Take the URL, and keyword arguments of the clients. Raises `ValueError` if one of them is invalid."""
        self._address = Address(server)
        self.server = self._address.server
        named = {name: options.get(name) for name in ("ca_file", "cert_file", "key_file")}
        self._tls = tls_context(**named) if self._address.https else None
        self._forward_proxy = forward_proxy(options.get("proxy"), self._address)
        self._credentials: Credentials | None = options.get("credentials")
        if self._credentials is not None:
            consent = self._credentials.insecure_http
            check_sendable(self._address, self._forward_proxy, "the token", insecure_http=consent)
        self.proxy = ""
        """The name of the proxy in between, once an answer has told it."""
        self._types = f"composerd-probe-{uuid.uuid4().hex[:12]}"
        self._jobs: dict[str, None] = {}
        self._submissions: set[asyncio.Task[str]] = set()

    @property
    def has_token(self) -> bool:
        """True if a token is sent with each request."""
        return self._credentials is not None

    def type(self, purpose: str) -> str:
        """Return a job type that only this probe has."""
        return f"{self._types}-{purpose}"

    def url(self, path: str) -> URL:
        """Return the URL of a path."""
        return URL(self._address.url(path))

    async def open(self) -> Wire:
        """Connect. Raises `ServerUnreachable`."""
        identity = await Sender(self._credentials, None).headers()
        try:
            wire = await Wire.open(self.url("/"), self._tls, self._address.socket_path, self._forward_proxy)
        except (OSError, TimeoutError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc) or "no answer in time"
            through = "" if self._forward_proxy is None else f" through the proxy {self._forward_proxy.url}"
            raise ServerUnreachable(f"{self.server} cannot be reached{through}: {reason}") from exc
        wire.identity = identity
        return wire

    def look(self, answer: Answer) -> Answer:
        """Take note of the proxy that an answer names, and return the answer."""
        self.proxy = self.proxy or known_proxy(answer.headers, answer.body)
        return answer

    async def call(self, method: str, path: str, value: Any = None, *, within: float = _ANSWER_WITHIN) -> Answer:
        """Send a request with a JSON body, or none, on a connection of its own, and return the answer.

        Raises `Unexpected` if there is none within the time.
        """
        wire = await self.open()
        try:
            body = b"" if value is None else json.dumps(value).encode()
            async with asyncio.timeout(within):
                await wire.send(method, self.url(path), body, JSON if body else {})
                return self.look(await wire.answer(method))
        except (Cut, ConnectionError) as exc:
            raise Unexpected(f"{method} {_shown(path)}: the other side {ending(exc)}") from exc
        except TimeoutError as exc:
            raise Unexpected(f"{method} {_shown(path)}: no answer within {within:g} s") from exc
        finally:
            await wire.close()

    async def must(self, method: str, path: str, value: Any = None) -> Any:
        """Send a request as `call` does, and return the decoded answer. Raises `Unexpected` if it was refused."""
        answer = await self.call(method, path, value)
        if answer.status >= 300 or not ours(answer):
            raise Unexpected(f"{method} {_shown(path)}: {described(answer)}")
        return decoded(answer)

    async def submit(self, type: str, **fields: Any) -> str:
        """Submit a job, and return its id. It is removed at the end, also if this is canceled."""
        submission = asyncio.create_task(self._submit({"type": type, "retention": "1h", **fields}))
        self._submissions.add(submission)
        submission.add_done_callback(self._submissions.discard)
        return await asyncio.shield(submission)

    async def _submit(self, job: dict[str, Any]) -> str:
        job_id = parse_uuid((await self.must("POST", f"{COMPOSER}/jobs", job))["id"])
        if job_id is None:
            raise Unexpected("the answer to a submission has no id")
        self._jobs[str(job_id)] = None
        return str(job_id)

    async def state(self, job_id: str) -> str:
        """Return the state of a job."""
        return str((await self.must("GET", f"{COMPOSER}/jobs/{job_id}"))["state"])

    async def attempt(self, type: str) -> tuple[str, dict[str, Any]]:
        """Submit a job and request it. Return its id and the answer; it is not confirmed yet."""
        job_id = await self.submit(type)
        wanted = {"types": [type], "arch": ARCH, "confirm": True}
        answer = await self.must("POST", f"{WORKER}/jobs?wait=10s", wanted)
        if not isinstance(answer, dict) or answer.get("id") != job_id:
            raise Unexpected("a request for a job did not get the job that was there")
        return job_id, answer

    async def remove_jobs(self) -> int:
        """Cancel and delete the jobs of the probe. Return how many may be left."""
        await asyncio.gather(*self._submissions, return_exceptions=True)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def remove(job_id: str) -> None:
            async with turns:
                with contextlib.suppress(*FAILURES):
                    await self.call("POST", f"{COMPOSER}/jobs/{job_id}/cancel", {})
                    answer = await self.call("DELETE", f"{COMPOSER}/jobs/{job_id}")
                    if answer.status in (204, 404):
                        self._jobs.pop(job_id)

        async with asyncio.TaskGroup() as tasks:
            for job_id in self._jobs:
                tasks.create_task(remove(job_id))
        return len(self._jobs)


def ours(answer: Answer) -> bool:
    """Return True if an answer is composerd's."""
    return REQUEST_ID_HEADER in answer.headers


def decoded(answer: Answer) -> Any:
    """Return the JSON of an answer; None if it is not JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(answer.body)
    return None


def described(answer: Answer) -> str:
    """Return the status of an answer, who has sent it, and the reason if the server gives one."""
    if not ours(answer):
        return _said(answer)[0]
    error = decoded(answer)
    reason = error.get("reason", "") if isinstance(error, dict) else ""
    return f"{answer.status} from composerd" + (f": {reason}" if reason else "")


def advised(answer: Answer) -> str:
    """Return what to change after an answer that is not the server's."""
    return _said(answer)[2]


def failure(error: Exception) -> str:
    """Return a text for one of `FAILURES`."""
    if isinstance(error, LookupError | TypeError | AttributeError):
        return "an answer that composerd does not send"
    return str(error) or "the connection was closed"


def _said(answer: Answer) -> tuple[str, str, str]:
    return proxy_answer(answer.status, answer.headers, answer.body, "GET").reason.partition(": ")


def _shown(path: str) -> str:
    """Return the shape of a path, without ids and tokens."""
    return "/".join("…" if len(part) == 36 else part for part in path.partition("?")[0].split("/"))
