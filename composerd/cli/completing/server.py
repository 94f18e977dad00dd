"""Candidates that a server knows: ids, types and channels, asked for within the time that somebody does not notice."""

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from composerd.cli.completing import SAFE
from composerd_protocol.loopback import is_loopback
from composerd_protocol.server_settings import ServerSettings, server_settings

WITHIN = 0.07
"""Seconds that the server has for its answers, so that a completion takes less than 150 ms."""

_MOST_JOBS = 200
"""Number of jobs, the newest first, that are looked at."""

_LARGEST_ANSWER = 4 * 1024**2
"""Bytes of an answer that are read."""

_BASE = "/api/composer/v1"

Found = tuple[str, str]
"""A value and its help."""


def ask(what: str, options: Mapping[str, Any], states: Sequence[str]) -> Sequence[Found]:
    """Return the jobs in the states, the types or the channels that a server knows; none if it does not answer in time.

    `options` of the command say which server. It is asked in a thread, so that not even the resolver takes longer.
    """
    found: list[Found] = []

    def collect() -> None:
        with suppress(OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError):
            server = _Server(options)
            values = _jobs(server, states) if what == "jobs" else _names(server, what)
            found.extend(one for one in values if SAFE.fullmatch(one[0]))

    thread = Thread(target=collect, daemon=True)
    thread.start()
    thread.join(WITHIN)
    return [] if thread.is_alive() else found


class _Server:
    """One connection to the server that the options, the environment or a profile name."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        settings = server_settings(options)
        self._prefix = ""
        self._connection = self._connect(settings)
        self._headers = self._identity(settings)

    def get(self, path: str) -> Any:
        """Return the decoded JSON of an answer. Raises `OSError`, `HTTPException` or `ValueError`."""
        self._connection.request("GET", self._prefix + _BASE + path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read(_LARGEST_ANSWER)
        return json.loads(body) if answer.status == 200 else {}

    def _connect(self, settings: ServerSettings) -> HTTPConnection:
        server = settings.server
        if server.startswith("unix:"):
            connection = HTTPConnection("localhost", timeout=WITHIN)
            connection.sock = socket(AF_UNIX, SOCK_STREAM)
            connection.sock.connect(server.removeprefix("unix:"))
            return connection
        url = urlsplit(server)
        if url.hostname is None:
            raise ValueError(f"{server!r} is not a server")
        self._prefix = url.path.rstrip("/")
        if url.scheme == "http":
            return HTTPConnection(url.hostname, url.port, timeout=WITHIN)
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        return HTTPSConnection(url.hostname, url.port, timeout=WITHIN, context=context)

    def _identity(self, settings: ServerSettings) -> Mapping[str, str]:
        """Return the headers with the token, if there is one; there is no time to ask a token server for one."""
        token = settings.token
        if settings.token_file is not None:
            token = Path(settings.token_file).read_text(encoding="utf-8").strip()
        plain = type(self._connection) is HTTPConnection and not settings.server.startswith("unix:")
        if not token or (plain and not settings.insecure_http and not is_loopback(self._connection.host)):
            return {}
        return {"Authorization": f"Bearer {token}"}


def _jobs(server: _Server, states: Sequence[str]) -> Iterator[Found]:
    """Yield the ids of jobs, the newest first, with their types and states."""
    chosen = "".join(f"&state={state}" for state in states)
    for job in server.get(f"/jobs?limit={_MOST_JOBS}{chosen}").get("items", ()):
        yield job["id"], " ".join(filter(SAFE.fullmatch, (job["type"], job["state"])))


def _names(server: _Server, what: str) -> Iterator[Found]:
    """Yield the types or the channels of workers and of recent jobs."""
    workers = server.get("/workers").get("items", ())
    jobs = server.get(f"/jobs?limit={_MOST_JOBS}").get("items", ())
    if what == "types":
        names = {type for worker in workers for type in worker["types"]} | {job["type"] for job in jobs}
    else:
        names = {one["channel"] for one in (*workers, *jobs)}
    for name in sorted(names):
        yield name, ""
