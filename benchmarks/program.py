"""Shared parts of the programs: the scratch directory, the event loop of the load, and messages about the progress."""

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

SCRATCH = "/var/tmp"  # noqa: S108  # programs create a directory in it; unlike /tmp it is always on a disk

T = TypeVar("T")


def parser_of(module: str, about: str | None) -> argparse.ArgumentParser:
    """Return a parser of the command line with the option `--directory`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=about)
    parser.add_argument(
        "--directory", default=SCRATCH, help="directory for the storages, on a disk (default: %(default)s)"
    )
    return parser


@contextmanager
def scratch_in(directory: str) -> Iterator[Path]:
    """Create a scratch directory for the block; exit if it is in memory."""
    with tempfile.TemporaryDirectory(prefix="composerd-benchmark-", dir=directory) as scratch:
        if disk.inspect(Path(scratch)).filesystem == "tmpfs":
            sys.exit(f"{directory} is in memory, where fdatasync costs nothing: choose a --directory on a disk")
        yield Path(scratch)


def on_fastest_loop(measurement: Coroutine[Any, Any, T]) -> T:
    """Run the load on uvloop if it is installed, so that the load program is not the bottleneck."""
    try:
        import uvloop  # noqa: PLC0415  # optional
    except ImportError:
        return asyncio.run(measurement)
    return uvloop.run(measurement)


def pin() -> set[int]:
    """Pin this process to the core of the load, and return the cores of the servers."""
    server_cores, load_core = servers.load_cores()
    os.sched_setaffinity(0, load_core)
    return server_cores


def raise_descriptors() -> int:
    """Raise the limit of open files of this process and its servers as far as possible, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def progress(activity: str) -> None:
    """Print on stderr what is done now."""
    print(f"{activity} …", file=sys.stderr, flush=True)
