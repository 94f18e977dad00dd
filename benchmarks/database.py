"""A PostgreSQL of the benchmarks' own: the newest that can be had, on a disk, keeping what it commits; thrown away afterwards."""

import contextlib
from collections.abc import Iterator

from benchmarks.program import SCRATCH, progress
from tests.throwaway import Throwaway, installations


@contextlib.contextmanager
def database(directory: str = SCRATCH) -> Iterator[Throwaway]:
    """A server, for as long as the context lasts."""
    version, binaries = max(installations().items())
    server = Throwaway(binaries, where=directory, fsync="on", shared_buffers="512MB", autovacuum_naptime="1min")
    try:
        server.start()
        progress(f"PostgreSQL {version}")
        yield server
    finally:
        server.remove()
