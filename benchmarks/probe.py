"""A client that asks a server one question after the other, and says how long the longest answer took.

    python -m benchmarks.probe HOST PORT PATH

It is a process of its own, because the load program does not read its answers at once. For each line that it gets on
standard input it prints the longest delay since the line before, in milliseconds.
"""

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from benchmarks.client import request

ADDRESS = "127.0.0.2"
"""The address that it asks from, which makes it another client than the load."""


class Probe:
    """The process, as the load program sees it."""

    def __init__(self, sent: IO[str], answered: IO[str]) -> None:
        self._sent = sent
        self._answered = answered

    def longest(self) -> float:
        """Return the longest delay since the last call, in milliseconds."""
        self._sent.write("\n")
        self._sent.flush()
        return float(self._answered.readline())


@contextmanager
def probing(host: str, port: int, path: str) -> Iterator[Probe]:
    """Ask a server in another process for the length of a block."""
    command = [sys.executable, "-m", "benchmarks.probe", host, str(port), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Probe(process.stdin, process.stdout)
        process.stdin.close()


def main(host: str, port: str, path: str) -> None:
    """Ask until standard input ends."""
    message = request("GET", path, b"")
    longest = 0.0
    with socket.create_connection((host, int(port)), source_address=(ADDRESS, 0)) as connection:
        while True:
            began = time.perf_counter()
            connection.sendall(message)
            if not connection.recv(64 * 1024).startswith(b"HTTP/1.1 200"):
                sys.exit("the server did not answer 200")
            longest = max(longest, time.perf_counter() - began)
            if select.select([sys.stdin], [], [], 0.0005)[0]:
                if not sys.stdin.readline():
                    return
                print(f"{longest * 1000:.3f}", flush=True)
                longest = 0.0


if __name__ == "__main__":
    main(*sys.argv[1:])
