"""A server with two tenants, each with an identity of every role, and with jobs, attempts and workers of their own."""

import itertools
import json
import re
import socket
from collections.abc import Mapping, Sequence
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from composerd.identity.roles import Role
from composerd.testing.server import LiveServer

from ..tokens import new

WORKER = "/api/worker/v1"
COMPOSER = "/api/composer/v1"

TENANT, OTHER = "acme", "other"

_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z")


class Caller(NamedTuple):
    """An identity of a tenant."""

    role: Role
    tenant: str | None = TENANT

    @property
    def name(self) -> str:
        """Its name, which is also in its tokens file."""
        return f"{self.role}-{self.tenant}"


class Answer(NamedTuple):
    """An answer of the server."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    continued: bool = False
    """True if the server has asked for the body (`100 Continue`)."""

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, int]:
        """The status and the number of the error."""
        assert self.json["kind"] == "Error", self
        return self.status, int(self.json["id"])

    @property
    def without_ids(self) -> "Answer":
        """The answer with the same text in place of each id and time, and without what is new in every answer."""
        headers = [(name, value) for name, value in self.headers if name not in ("Date", "X-Operation-Id")]
        return self._replace(headers=headers, body=_TIME.sub(b"TIME", _UUID.sub(b"ID", self.body)))


class World:
    """The server, and what its tenants have there. Everything is made by requests."""

    def __init__(self, server: LiveServer, tokens: Mapping[Caller, str]) -> None:
        self.server = server
        self.tokens = tokens
        self._ended: dict[str, str] = {}
        self._workers: dict[Caller, str] = {}
        self._types = (f"type-{number}" for number in itertools.count())
        host, _, port = server.url.partition("://")[2].rpartition(":")
        self._address = host, int(port)
        self._connection: socket.socket | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def send(
        self, caller: Caller | None, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request for somebody, or without credentials, and return the answer.

        A body that is not bytes is sent as JSON. With `Expect: 100-continue` it is sent once the server asks for it.
        """
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"Host": "composerd"}
        if caller is not None:
            lines["Authorization"] = f"Bearer {self.tokens[caller]}"
        if body is not None:
            lines["Content-Length"] = str(len(content))
            if not isinstance(body, bytes):
                lines["Content-Type"] = "application/json"
        lines |= headers or {}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        head = f"{method} {path} HTTP/1.1\r\n{head}\r\n"
        if self._connection is None:
            self._connection = socket.create_connection(self._address, timeout=30)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._connection
        continued = False
        if "Expect" in lines:
            connection.sendall(head.encode())
            continued = connection.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 100"
            if continued:
                connection.sendall(content)
        else:
            connection.sendall(head.encode() + content)
        with HTTPResponse(connection, method=method) as response:
            response.begin()
            answer = Answer(response.status, response.getheaders(), response.read(), continued)
        if ("Connection", "close") in answer.headers:
            connection.close()
            self._connection = None
        return answer

    def sent(self, caller: Caller, method: str, path: str, body: Any = None) -> Any:
        """Send a request that has to be granted, and return the JSON of the answer, if it has any."""
        answer = self.send(caller, method, path, body)
        assert answer.status < 300, answer
        return answer.json if answer.body else None

    def type(self) -> str:
        """Return a type that no job has."""
        return next(self._types)

    def submit(self, tenant: str, **fields: Any) -> str:
        """Submit a job of a tenant, and return its id."""
        body = {"type": self.type(), **fields}
        return str(self.sent(Caller(Role.SUBMITTER, tenant), "POST", f"{COMPOSER}/jobs", body)["id"])

    def claim(self, caller: Caller, **fields: Any) -> dict[str, Any]:
        """Submit a job of somebody's tenant, and let them claim it; return the answer to the worker."""
        type = self.type()
        assert caller.tenant is not None
        self.submit(caller.tenant, type=type)
        body = {"types": [type], "arch": "x86_64", **fields}
        job: dict[str, Any] = self.sent(caller, "POST", f"{WORKER}/jobs?wait=30s", body)
        self.sent(caller, "GET", job["location"])
        return job

    def ended(self, tenant: str) -> str:
        """Return the id of a job of a tenant that has ended, with an artifact `log` and a result."""
        if tenant not in self._ended:
            worker = Caller(Role.WORKER, tenant)
            job = self.claim(worker)
            assert self.send(worker, "PUT", job["artifact_location"] + "log", b"text").status == 200
            self.sent(worker, "PATCH", job["location"], {"result": {"secret": tenant}})
            self._ended[tenant] = job["id"]
        return self._ended[tenant]

    def register(self, caller: Caller) -> str:
        """Register a worker, and return its id."""
        return str(self.sent(caller, "POST", f"{WORKER}/workers", {"arch": "x86_64"})["id"])

    def worker(self, caller: Caller) -> str:
        """Return the id of a worker that somebody has registered, and that never signs off."""
        if caller not in self._workers:
            self._workers[caller] = self.register(caller)
        return self._workers[caller]


def write_tokens(path: Path) -> dict[Caller, str]:
    """Write a tokens file with an identity of each role for both tenants and for none, and return their tokens."""
    callers = [Caller(role, tenant) for role, tenant in itertools.product(Role, (TENANT, OTHER, None))]
    return {caller: new(path, caller.name, caller.role, caller.tenant) for caller in callers}


def nobody() -> str:
    """Return an id that nothing has."""
    return str(uuid4())
