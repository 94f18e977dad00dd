"""A `composerd serve` process for tests, on a free port."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from composerd.identity.roles import Role
from composerd.identity.tokens.changes import changing
from composerd.testing.worker import Play, ScriptedWorker
from composerd_client import SyncComposerClient, Token

START_TIMEOUT = 30.0
"""Seconds that a server may take to start."""

STOP_TIMEOUT = 30.0
"""Seconds that a server may take to exit."""

LISTENING = "listening on "
"""The beginning of the line that a server prints once it accepts connections."""


class LiveServer:
    """A server process. Use it as a context manager, in synchronous and asynchronous tests alike.

    >>> with LiveServer() as server, server.worker({"build": lambda job: {"built": job.args}}):
    ...     submit_something(server.url)
    >>> with LiveServer() as server, server.composer() as composer:
    ...     job = composer.submit("build")

    `storage` is a storage URL: by default `memory:`; with `fs:/some/path` the jobs survive `kill` and `start`.
    `options` are options of `composerd serve`, such as `("--heartbeat-timeout", "1s")`. Artifacts of a server with its
    jobs in memory are in a temporary directory, unless the options say where.

    With `identities` the server asks who its clients are. They are names with a role each, or with a role and a tenant:
    `{"boss": "admin", "builder": "worker/acme"}`.
    """

    def __init__(
        self,
        storage: str = "memory:",
        options: Sequence[str] = (),
        *,
        identities: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.storage = storage
        self.options = options
        self.tokens: dict[str, str] = {}
        """The tokens of the identities by name."""
        self.url = ""
        """The URL of the started server, `http://127.0.0.1:PORT`. A restart does not change it."""
        self._process: subprocess.Popen[str] | None = None
        self._artifacts: tempfile.TemporaryDirectory[str] | None = None
        """The directory of the artifacts of jobs in memory, which have no place of their own."""
        if storage == "memory:" and not any(option.partition("=")[0] == "--artifacts" for option in options):
            self._artifacts = tempfile.TemporaryDirectory(prefix="composerd-artifacts-")
        self._tokens_file: tempfile.TemporaryDirectory[str] | None = None
        if identities:
            self._tokens_file = tempfile.TemporaryDirectory(prefix="composerd-tokens-")
            path = Path(self._tokens_file.name) / "tokens"
            self.tokens = _made_tokens(path, identities)
            self.options = [*options, "--tokens", str(path)]
        self._log = tempfile.TemporaryFile("a+", encoding="utf-8")  # noqa: SIM115  # closed by _remove_files

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove_files()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.stop()
        self._remove_files()

    def _remove_files(self) -> None:
        self._log.close()
        for directory in (self._artifacts, self._tokens_file):
            if directory is not None:
                directory.cleanup()

    def start(self) -> None:
        """Start the server, or start it again at the same URL.

        Raises `RuntimeError` with the server's log if it does not start.
        """
        if self._process is not None:
            raise RuntimeError("the server is already running")
        listen = self.url.partition("://")[2] or "127.0.0.1:0"
        command = [sys.executable, "-m", "composerd.cli.main", "serve", "--listen", listen, "--storage", self.storage]
        if self._artifacts is not None:
            command += ["--artifacts", self._artifacts.name]
        self._process = subprocess.Popen(
            [*command, *self.options],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("COMPOSERD_")},
        )
        assert self._process.stdout is not None
        timer = threading.Timer(START_TIMEOUT, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line.startswith(LISTENING):
            self.kill()
            raise RuntimeError(f"composerd serve did not start: {self.log.strip() or line}")
        self.url = line.removeprefix(LISTENING).strip()

    def stop(self) -> None:
        """Stop the server with SIGTERM, as a service manager does. Does nothing if it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop the server with SIGKILL, like a crash. Does nothing if it is not running.

        `start` starts it again at the same URL; with `fs` storage its jobs are still there.
        """
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_TIMEOUT)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    @property
    def log(self) -> str:
        """The log of the server so far."""
        self._log.seek(0)
        return self._log.read()

    def composer(self, identity: str | None = None) -> SyncComposerClient:
        """Create a client for this server, which submits jobs and follows them. Use it as a context manager."""
        return SyncComposerClient(self.url, credentials=self._credentials(identity))

    def worker(self, plays: Mapping[str, Play], identity: str | None = None, **options: Any) -> ScriptedWorker:
        """Create a worker for this server; see `ScriptedWorker`. Use it as a context manager."""
        return ScriptedWorker(self.url, plays, credentials=self._credentials(identity), **options)

    def _credentials(self, identity: str | None) -> Token | None:
        return None if identity is None else Token(self.tokens[identity])


def _made_tokens(path: Path, identities: Mapping[str, str]) -> dict[str, str]:
    """Write a tokens file with a token for each identity, and return the tokens."""
    tokens = {}
    for name, given in identities.items():
        role, _, tenant = given.partition("/")
        with changing(path, create=True) as file:
            tokens[name] = file.create(name, Role(role), tenant or None, None).text
    return tokens
