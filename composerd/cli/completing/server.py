"""Candidates that a server knows: ids, types and channels, asked for within the time that somebody does not notice."""

import json
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import AF_UNIX, SOCK_STREAM, socket
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from composerd.cli.completing.command_line import Place

WITHIN = 0.09
"""Seconds that the server has for its answers, so that a completion takes less than 150 ms."""

_MOST_JOBS = 200
"""Number of jobs, the newest first, that are looked at."""

_LARGEST_ANSWER = 4 * 1024**2
"""Bytes of an answer that are read."""

_BASE = "/api/composer/v1"

_SAFE = re.compile(r"[\w.:/@%+=,-]+", re.ASCII)
"""A value that a shell does not interpret: a server is not trusted with the command line."""

Found = tuple[str, str]
"""A value and its help."""


def ask(kind: str, place: Place, environ: Mapping[str, str]) -> Sequence[Found]:
    """Return the values of a kind that the server of a command line knows; none if it does not answer in time.

    It is asked in a thread, so that not even the resolver takes longer.
    """
    found: list[Found] = []

    def collect() -> None:
        with suppress(OSError, HTTPException, ValueError, LookupError, TypeError):
            server = _Server(place, environ)
            values = _jobs(server, place) if kind == "ids" else _names(server, kind)
            found.extend(one for one in values if _SAFE.fullmatch(one[0]))

    thread = Thread(target=collect, daemon=True)
    thread.start()
    thread.join(WITHIN)
    return [] if thread.is_alive() else found


class _Server:
    """The server that the options and the environment name, and one connection to it."""

    def __init__(self, place: Place, environ: Mapping[str, str]) -> None:
        self._options = {
            name: place.given.get(name) or environ.get(option["variable"]) or option.get("default")
            for name, option in place.command["options"].items()
            if name in ("--server", "--ca-file", "--cert-file", "--key-file")
        }
        self._prefix = ""
        self._connection = self._connect(self._options["--server"])

    def get(self, path: str) -> Any:
        """Return the decoded JSON of an answer. Raises `OSError`, `HTTPException` or `ValueError`."""
        self._connection.request("GET", self._prefix + _BASE + path)
        answer = self._connection.getresponse()
        body = answer.read(_LARGEST_ANSWER)
        return json.loads(body) if answer.status == 200 else {}

    def _connect(self, server: str) -> HTTPConnection:
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
        context = ssl.create_default_context(cafile=self._options["--ca-file"])
        if self._options["--cert-file"]:
            context.load_cert_chain(self._options["--cert-file"], self._options["--key-file"], password="")
        return HTTPSConnection(url.hostname, url.port, timeout=WITHIN, context=context)


def _jobs(server: _Server, place: Place) -> Iterator[Found]:
    """Yield the ids of jobs, the newest first, in the states in which the command can do something with them."""
    assert place.value is not None
    states = "".join(f"&state={state}" for state in place.value["states"])
    for job in server.get(f"/jobs?limit={_MOST_JOBS}{states}").get("items", ()):
        yield job["id"], " ".join(filter(_SAFE.fullmatch, (job["type"], job["state"])))


def _names(server: _Server, kind: str) -> Iterator[Found]:
    """Yield the types or the channels of workers and of recent jobs."""
    workers = server.get("/workers").get("items", ())
    jobs = server.get(f"/jobs?limit={_MOST_JOBS}").get("items", ())
    if kind == "types":
        names = {type for worker in workers for type in worker["types"]} | {job["type"] for job in jobs}
    else:
        names = {one["channel"] for one in (*workers, *jobs)}
    for name in sorted(names):
        yield name, ""
