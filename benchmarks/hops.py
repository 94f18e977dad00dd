"""Functions and files that a request goes through in the server: `python -m benchmarks.hops`.

A server runs in this process, on the fs driver and then on the PostgreSQL driver. After some jobs to warm up, one job
is submitted, claimed and finished over a connection that is kept alive. For each of these three requests, this
program counts the Python functions of composerd and of its drivers that run, from the request until shortly after its
answer.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec

import composerd
import composerd_fs
import composerd_postgres
from benchmarks.database import database
from benchmarks.loads import COMPOSER, WORKER
from benchmarks.program import parser_of, scratch_in
from composerd.server.serve import serve
from composerd.settings import load
from composerd_protocol.service_manager import ServiceManager

ROOTS = {package.__name__: Path(package.__path__[0]) for package in (composerd, composerd_fs, composerd_postgres)}
"""The packages whose functions are counted, with their directories."""

DRIVERS = (composerd_fs.__name__, composerd_postgres.__name__)

WARM_UP = 3
"""Jobs that are submitted, claimed and finished before anything is counted."""

IDLE_BEFORE = 1.0
"""Seconds before a counted request, in which the server completes everything that earlier requests have caused."""

AFTERMATH = 0.2
"""Seconds after the answer in which functions are counted too, because some work follows the answer."""

START_TIMEOUT = 30.0
"""Seconds that the server may take to start."""


Request = Callable[[], dict[str, Any]]
"""Sends a request, and returns the decoded answer."""


class Hops(msgspec.Struct, frozen=True):
    """The functions that ran during one request."""

    request: str
    calls: Mapping[CodeType, int]
    """Calls of each function; a coroutine that continues after an `await` counts as called again."""

    def functions(self) -> Mapping[str, Sequence[str]]:
        """Return the functions by the file that they are in, each with its number of calls."""
        found: dict[str, list[str]] = {}
        for code, calls in self.calls.items():
            found.setdefault(_file_of(code), []).append(f"{code.co_qualname} ({calls})")
        return {file: sorted(functions) for file, functions in sorted(found.items())}

    def row(self, storage: str) -> str:
        """Return the row of the table."""
        files = self.functions()
        driver_files = [file for file in files if file.startswith(DRIVERS)]
        counts = (len(self.calls), sum(self.calls.values()), len(files), len(driver_files))
        return _row(storage, self.request, *(str(count) for count in counts))


class Profiler:
    """Counts calls of composerd's functions in all threads, while it is switched on."""

    def __init__(self) -> None:
        self._calls: Counter[CodeType] = Counter()
        self._is_on = False

    def install(self) -> None:
        """Observe this thread, and every thread that is started from now on."""
        sys.setprofile(self._observe)
        threading.setprofile(self._observe)

    def remove(self) -> None:
        """Stop observing this thread, and threads that are started from now on."""
        sys.setprofile(None)
        threading.setprofile(None)

    def count(self, name: str, request: Request) -> tuple[Hops, dict[str, Any]]:
        """Send a request, and return the functions that ran, and the answer."""
        time.sleep(IDLE_BEFORE)
        self._calls = Counter()
        self._is_on = True
        answer = request()
        time.sleep(AFTERMATH)
        self._is_on = False
        return Hops(name, {code: calls for code, calls in self._calls.items() if _file_of(code)}), answer

    def _observe(self, frame: FrameType, event: str, _argument: object) -> None:
        if self._is_on and event == "call":
            self._calls[frame.f_code] += 1


def _file_of(code: CodeType) -> str:
    """Return a function's file, relative to the directory of its package; empty if it is not in one of the packages."""
    path = Path(code.co_filename)
    for name, root in ROOTS.items():
        if path.is_relative_to(root):
            return str(Path(name) / path.relative_to(root))
    return ""


class Client(http.client.HTTPConnection):
    """A keep-alive connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect, as soon as the server listens."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(str(self._path))
            except OSError:
                self.sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def send_json(self, method: str, path: str, body: object, expect: int) -> dict[str, Any]:
        """Send a request, and return the decoded answer. Raises `ConnectionError` for another status than expected."""
        self.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = self.getresponse()
        data = response.read()
        if response.status != expect:
            raise ConnectionError(f"{method} {path}: {response.status} {data[:500]!r}")
        answer: dict[str, Any] = json.loads(data)
        return answer


def _run_job(client: Client, send: Callable[[str, Request], dict[str, Any]]) -> None:
    """Submit, claim and finish a job; `send` gets the name of each request and a function that sends it."""
    submitted = {"type": "hops", "args": {"a": 1}}
    send("submit", lambda: client.send_json("POST", f"{COMPOSER}/jobs", submitted, 201))
    wanted = {"types": ["hops"], "arch": "x86_64"}
    attempt = send("claim", lambda: client.send_json("POST", f"{WORKER}/jobs", wanted, 201))
    send("finish", lambda: client.send_json("PATCH", attempt["location"], {"result": {"b": 1}}, 200))


def _drive(socket_path: Path, profiler: Profiler) -> Sequence[Hops]:
    """Send requests to the server in the main thread, return what was counted, and stop the server."""
    found: list[Hops] = []

    def counted(name: str, request: Request) -> dict[str, Any]:
        hops, answer = profiler.count(name, request)
        found.append(hops)
        return answer

    try:
        client = Client(socket_path)
        for _ in range(WARM_UP):
            _run_job(client, lambda _name, request: request())
        _run_job(client, counted)
        client.close()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
    return found


def measure(storage: str, scratch: Path) -> Sequence[Hops]:
    """Run a server on a storage in this thread, and return what was counted for each request."""
    socket_path = scratch / "socket"
    options = {"listen": [f"unix:{socket_path}"], "storage": storage, "artifacts": "none", "sweep_interval": "1h"}
    settings = load(options, {}, None)
    profiler = Profiler()
    profiler.install()
    try:
        with ThreadPoolExecutor() as executor, contextlib.redirect_stdout(sys.stderr):
            driving = executor.submit(_drive, socket_path, profiler)
            serve(settings, ServiceManager())
            return driving.result()
    finally:
        profiler.remove()


def _row(storage: str, request: str, *counts: str) -> str:
    return f"{storage:12}{request:8}" + "".join(f"{count:>14}" for count in counts)


def show(storage: str, found: Sequence[Hops], *, verbose: bool) -> None:
    """Print the rows of a storage, and with `verbose` every function."""
    for hops in found:
        print(hops.row(storage))
        if verbose:
            for file, functions in hops.functions().items():
                print(f"    {file}")
                for function in functions:
                    print(f"        {function}")


def main() -> None:
    """Read the command line, measure each storage, and print a table."""
    parser = parser_of("hops", __doc__)
    parser.add_argument("--verbose", action="store_true", help="list the functions, with their calls, by file")
    options = parser.parse_args()
    print(_row("storage", "request", "functions", "calls", "files", "driver files"))
    with scratch_in(options.directory) as scratch:
        show("fs", measure(f"fs:{scratch / 'fs'}", scratch), verbose=options.verbose)
        with database(str(scratch.parent)) as postgres:
            show("postgresql", measure(postgres.fresh(), scratch), verbose=options.verbose)


if __name__ == "__main__":
    main()
