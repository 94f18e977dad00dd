"""What the programs here have in common: where they write, how their load runs, what they say meanwhile. Measures nothing."""

import argparse
import asyncio
import os
import resource
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import disk, servers

SCRATCH = "/var/tmp"  # noqa: S108  # a fresh directory is made in it; unlike /tmp it is not memory anywhere

T = TypeVar("T")


def parser_of(module: str, about: str | None) -> argparse.ArgumentParser:
    """A command line that says at least where to write."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=about)
    parser.add_argument(
        "--directory", default=SCRATCH, help="where the journals go, a real disk (default: %(default)s)"
    )
    return parser


@contextmanager
def scratch_in(directory: str) -> Iterator[Path]:
    """A scratch directory on a disk."""
    with tempfile.TemporaryDirectory(prefix="composerd-benchmark-", dir=directory) as scratch:
        if disk.inspect(Path(scratch)).filesystem == "tmpfs":
            sys.exit(f"{directory} is in memory, where fdatasync costs nothing: name a --directory on a disk")
        yield Path(scratch)


def on_fastest_loop(measurement: Coroutine[Any, Any, T]) -> T:
    """Run the load on uvloop if it is there: it is not what is measured, and should not be what limits."""
    try:
        import uvloop  # noqa: PLC0415  # need not be there
    except ImportError:
        return asyncio.run(measurement)
    return uvloop.run(measurement)


def pin() -> set[int]:
    """Keep this process to the load's core; the cores of the servers."""
    server_cores, load_core = servers.load_cores()
    os.sched_setaffinity(0, load_core)
    return server_cores


def raise_descriptors() -> int:
    """Let this process, and the servers that it starts, open as many files as the system allows; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def progress(what: str) -> None:
    """Say on stderr what takes its time now."""
    print(f"{what} …", file=sys.stderr, flush=True)
