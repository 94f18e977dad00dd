"""A temporary PostgreSQL for the benchmarks: the newest installed version, on a disk, with fsync on."""

import contextlib
from collections.abc import Iterator

from benchmarks.program import SCRATCH, progress
from tests.throwaway import Throwaway, installations


@contextlib.contextmanager
def database(directory: str = SCRATCH) -> Iterator[Throwaway]:
    """Run a server for the block, and remove it afterwards."""
    version, binaries = max(installations().items())
    server = Throwaway(binaries, where=directory, fsync="on", shared_buffers="512MB", autovacuum_naptime="1min")
    try:
        server.start()
        progress(f"PostgreSQL {version}")
        yield server
    finally:
        server.remove()
