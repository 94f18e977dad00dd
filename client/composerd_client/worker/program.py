"""The work of a worker that was started from a command line: it runs a command for each job, until it is stopped."""

import asyncio
import logging
import signal
from collections.abc import Sequence
from typing import Any

from composerd_client.arguments import client_arguments
from composerd_client.worker.checks import command_check
from composerd_client.worker.command import Command
from composerd_client.worker.executable import relative_files
from composerd_client.worker.scratch import remove_leftovers
from composerd_client.worker.tasks import cancel
from composerd_client.worker.threads import started_threads
from composerd_client.worker.worker import Worker
from composerd_protocol.escaping import LineFormatter
from composerd_protocol.exit_codes import FAILED
from composerd_protocol.journald import formatter_for_stderr
from composerd_protocol.options import SERVER_OPTIONS
from composerd_protocol.service_manager import ServiceManager, give_signs_of_life

log = logging.getLogger(__name__)

END_WITHIN = 30.0
"""Time in seconds, after the running jobs had to end, in which their commands are killed and the jobs released."""

_STOPPING = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop a worker."""


async def work(
    command: Sequence[str],
    *,
    types: Sequence[str],
    once: bool,
    health_check: str | None,
    stop_after: float | None,
    **options: Any,
) -> int:
    """Run a command for each job of the types, until a signal stops the worker; with `once`, for one job.

    `health_check` is a command for the shell. A worker that a signal stops releases its jobs `stop_after` seconds
    later. `options` are `SERVER_OPTIONS` and those of `Worker`. Return the exit code.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter_for_stderr(LineFormatter("%(asctime)s %(levelname)-7s %(message)s")))
    logging.basicConfig(level="INFO", handlers=[handler])
    if once:
        options["concurrency"] = 1
    for name in relative_files(command[1:]):
        log.warning(
            "%r is a file here, but COMMAND runs in a scratch directory and does not find it: give its absolute path",
            name,
        )
    run = Command(command, options["arch"], None if health_check is None else command_check(health_check))
    servers = {option.name: options.pop(option.name, None) for option in SERVER_OPTIONS}
    worker = Worker(**client_arguments(**servers), **options, health_check=run.problem)
    for name in types:
        worker.handler(name)(run)
    manager = ServiceManager.of()

    def stop() -> None:
        manager.stopping("stopping", None if stop_after is None else stop_after + END_WITHIN)
        worker.stop(stop_after)

    loop = asyncio.get_running_loop()
    for number in _STOPPING:
        loop.add_signal_handler(number, stop)
    with started_threads():
        remove_leftovers()
        alive = asyncio.create_task(give_signs_of_life(manager), name="signs of life")
        manager.ready(f"requesting jobs of type {', '.join(types)} from {worker.server}")
        try:
            await worker.run(jobs=1 if once else None)
        finally:
            await cancel(alive)
    for number in _STOPPING:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)  # nothing is left to stop, and the exit code is known
    return FAILED if once and (worker.failed_jobs or worker.problem is not None) else 0
