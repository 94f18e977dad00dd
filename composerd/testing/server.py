"""A `composerd serve` process for tests, on a free port."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from composerd.testing.worker import Play, ScriptedWorker

STARTS_WITHIN = 30.0
"""How long a server may take to listen, in seconds."""

ENDS_WITHIN = 30.0

LISTENING = "listening on "


class LiveServer:
    """A server process; a context manager, to be used in synchronous and asynchronous tests alike.

    >>> with LiveServer() as server, server.worker({"build": lambda job: {"built": job.args}}):
    ...     submit_something(server.url)

    `storage` is a storage URL: by default memory, `fs:/some/path` for a server whose jobs outlive `kill` and `start`.
    `options` are those of `composerd serve`, such as `("--heartbeat-timeout", "1s")`.
    """

    def __init__(self, storage: str = "memory:", options: Sequence[str] = ()) -> None:
        self.storage = storage
        self.options = options
        self.url = ""
        """Where it is, once it has started: `http://127.0.0.1:PORT`. It stays the same over a restart."""
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("a+", encoding="utf-8")  # noqa: SIM115  # closed when the block ends

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.stop()
        self._log.close()

    def start(self) -> None:
        """Start it, or start it again at the same place. Raises `RuntimeError` with what it said if it does not come up."""
        if self._process is not None:
            raise RuntimeError("it runs already")
        listen = self.url.partition("://")[2] or "127.0.0.1:0"
        command = [sys.executable, "-m", "composerd.cli.main", "serve", "--listen", listen, "--storage", self.storage]
        self._process = subprocess.Popen(  # the command is ours, the options the test's
            [*command, *self.options],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("COMPOSERD_")},
        )
        assert self._process.stdout is not None
        too_late = threading.Timer(STARTS_WITHIN, self._process.kill)
        too_late.start()
        line = self._process.stdout.readline()
        too_late.cancel()
        if not line.startswith(LISTENING):
            self.kill()
            raise RuntimeError(f"composerd serve did not start: {self.log.strip() or line}")
        self.url = line.removeprefix(LISTENING).strip()

    def stop(self) -> None:
        """Stop it as a supervisor does, with SIGTERM. Fine if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop it as a power cut does, with SIGKILL. Fine if it does not run."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(ENDS_WITHIN)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    @property
    def log(self) -> str:
        """What it has logged."""
        self._log.seek(0)
        return self._log.read()

    def worker(self, plays: Mapping[str, Play], **options: Any) -> ScriptedWorker:
        """A worker for this server; see `ScriptedWorker`."""
        return ScriptedWorker(self.url, plays, **options)
