"""Checks of a worker's machine: free space, and a command of the operator's."""

import asyncio
import os
import shutil
from pathlib import Path

from composerd_client.errors import LocalFault
from composerd_client.worker.health import HealthCheck
from composerd_client.worker.processes import Process, read_tail
from composerd_client.worker.scratch import described, scratch_parent
from composerd_protocol.free_space import default_reserve
from composerd_protocol.units import format_size

CHECK_WITHIN = 30.0
"""Seconds that a health check may take."""

_KILL_AFTER = 1.0
"""Seconds that a health check may take to exit after SIGTERM."""


def free_space_check(least: int | None) -> HealthCheck:
    """Return a check that at least so many bytes are free where scratch directories are made.

    None stands for 5% of the file system, and at most 1 GiB.
    """

    async def check() -> str | None:
        try:
            parent = scratch_parent()
            usage = await asyncio.to_thread(shutil.disk_usage, parent)
        except OSError as exc:
            return described(exc)
        wanted = default_reserve(usage.total) if least is None else least
        if usage.free >= wanted:
            return None
        return f"only {format_size(usage.free)} are free in {parent}, less than min_free_space ({format_size(wanted)})"

    return check


def command_check(command: str) -> HealthCheck:
    """Return a check that runs a command with the shell, from the current directory.

    The machine is healthy if the exit status is 0. Otherwise the problem ends with the last line on stderr, or on
    stdout if there is none.
    """
    directory = Path.cwd()

    async def check() -> str | None:
        try:
            process = await Process.start(["/bin/sh", "-c", command], directory, os.environ, kill_after=_KILL_AFTER)
        except LocalFault as exc:
            return f"the health check: {exc}"
        process.stdin.close()
        stdout, stderr = bytearray(), bytearray()
        outputs = [
            asyncio.create_task(read_tail(process.stdout, stdout)),
            asyncio.create_task(read_tail(process.stderr, stderr)),
        ]
        status: int | None = None
        try:
            async with asyncio.timeout(CHECK_WITHIN):
                status = await process.exited()
        except TimeoutError:
            pass
        except LocalFault as exc:
            return f"the health check: {exc}"
        finally:
            await asyncio.shield(process.end(outputs))
        if status == 0:
            return None
        why = f"exited with status {status}" if status is not None else f"took longer than {CHECK_WITHIN:.0f} s"
        said = (stdout + b"\n" + stderr).decode(errors="replace").strip()
        last = said.rpartition("\n")[2].strip()
        return f"the health check {why}" + (f": {last}" if last else "")

    return check
