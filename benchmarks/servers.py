"""Server processes to measure, which are kept off the core of the load program."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.limit import AS_IT_COMES

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Server:
    """A running server process."""

    def __init__(self, name: str, process: subprocess.Popen[str], host: str, port: int, token: str) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.token = token
        """The bearer token of its clients; empty if it needs none."""
        self._process = process

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used so far, including threads that have ended."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> int:
        """Return the resident memory of the process in bytes."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE


def load_cores() -> tuple[set[int], set[int]]:
    """Split the available cores, and return those of the servers and the one of the load program."""
    cores = sorted(os.sched_getaffinity(0))
    return (set(cores[:-1]), {cores[-1]}) if len(cores) > 1 else (set(cores), set(cores))


@contextlib.contextmanager
def start(name: str, command: Sequence[str], cores: set[int], token: str = "") -> Iterator[Server]:
    """Start a server, wait until it prints `listening on http://…`, and stop it at the end of the block."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COMPOSERD_")}
    own_cores = os.sched_getaffinity(0)
    with tempfile.TemporaryFile("w+") as log:
        os.sched_setaffinity(0, cores)  # inherited by the process and all of its threads
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        finally:
            os.sched_setaffinity(0, own_cores)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if address := re.match(r"listening on https?://([^:/]+):(\d+)", line):
                    break
            else:
                log.seek(0)
                sys.exit(f"{name} did not start: {' '.join(command)}\n{log.read()[-2000:]}")
            yield Server(name, process, address[1], int(address[2]), token)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def composerd(storage: Path | str, connections: int = 4000, *more: str) -> Sequence[str]:
    """Return the command of composerd on a directory or a storage URL, with its defaults except for the connections."""
    script = Path(sys.executable).with_name("composerd")
    url = storage if isinstance(storage, str) else f"fs:{storage}"
    settings = ["--listen", "127.0.0.1:0", "--storage", url, "--max-connections", str(connections), *more]
    return [str(script), "serve", *settings]


def limit(answers: Path) -> Sequence[str]:
    """Return the command of the limit, which reads its answers from this file."""
    return [sys.executable, "-m", "benchmarks.limit", str(answers)]


def bare(answers: Path) -> Sequence[str]:
    """Return the command of the limit without the warm-up of its allocator."""
    return [*limit(answers), AS_IT_COMES]
