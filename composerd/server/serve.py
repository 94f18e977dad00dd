"""One server process from its start to its end: storage, queue, artifacts, sockets, signals."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from aiohttp import web

from composerd.artifacts.files import FileLimits, Files
from composerd.artifacts.stores import open_store
from composerd.artifacts.sweeper import Sweeper
from composerd.driver import Driver
from composerd.driver.registry import open_driver
from composerd.http.admission import Admission
from composerd.http.app import create_app
from composerd.http.clients import Clients
from composerd.http.connection import Runner, Server
from composerd.http.inspection import Inspection
from composerd.queue import JobQueue, QueueOptions
from composerd.server.accepting import Listeners
from composerd.server.announcing import announce, serving
from composerd.server.descriptors import share_out
from composerd.server.identities import running_identities
from composerd.server.metrics import Metrics
from composerd.server.processes import SupervisorPipe
from composerd.server.quotas import running_quotas
from composerd.server.sockets import close_sockets, open_sockets
from composerd.server.storage_start import start_storage
from composerd.server.tls import TLSFiles, bound_memory
from composerd.server.unix_sockets import UnixSocketAccess
from composerd.settings import Settings, SettingsError
from composerd.tasks import stop
from composerd_protocol.service_manager import ServiceManager, give_signs_of_life

log = logging.getLogger(__name__)

KEEP_ALIVE = 120.0
"""Time in seconds that an idle connection stays open.

Go's HTTP client closes an idle connection after 90 s, so it never uses one that the server has just closed.
"""

CANCEL_WITHIN = 0.1
"""Time in seconds that a request may take to end once it is canceled, after the drain timeout."""

START_WITHIN = 30.0
"""Time in seconds that a starting server asks the service manager for, again and again."""

END_WITHIN = 10.0
"""Time in seconds, after the drain timeout, in which a stopping server closes everything and ends."""

GIVE_UP_AFTER = 2.0
"""Time in seconds, after the drain timeout, that a stopping server waits for a shared storage that does not answer."""


class ProcessShare(msgspec.Struct, frozen=True):
    """Values that the supervisor hands to one of several server processes."""

    number: int
    sockets: Sequence[socket.socket]
    """The sockets to listen on."""
    supervisor_alive: int
    """The descriptor of a pipe that is closed when the supervisor dies."""


def serve(settings: Settings, manager: ServiceManager | SupervisorPipe, share: ProcessShare | None = None) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code. Tell `manager` how that goes.

    Raises `ListenError`, `SettingsError` or what the storage raises if the server cannot start.
    """
    return asyncio.run(_serve(settings, manager, share))


async def _serve(settings: Settings, manager: ServiceManager | SupervisorPipe, share: ProcessShare | None) -> int:
    signals = _receive_signals()
    if share:
        _stop_with_the_supervisor(share, signals)
    descriptors = share_out(settings.max_connections)
    tls = TLSFiles.from_settings(settings)
    if tls is not None:
        tls.context()  # fails before anything is opened if the files are wrong
        bound_memory()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stop, asyncio.create_task(give_signs_of_life(manager), name="signs of life"))
        access = UnixSocketAccess(settings.socket_mode, settings.socket_group)
        sockets = share.sockets if share else open_sockets(settings.listen, access, local_only=settings.local_only)
        stack.callback(close_sockets, sockets)
        identities = await stack.enter_async_context(running_identities(settings, sockets))
        metrics = Metrics(share.number if share else None)
        driver = open_driver(settings.storage, metrics.called)
        stack.push_async_callback(driver.close)
        _check_body_size(settings, driver)
        quotas = await stack.enter_async_context(running_quotas(settings, driver))
        async with _taking_time(manager):
            starting = await start_storage(driver, on_failure=lambda: signals.put_nowait(signal.SIGTERM))
        if starting is not None:
            stack.push_async_callback(stop, starting)
        queue = JobQueue(driver, _queue_options(settings), quotas)
        files = await stack.enter_async_context(_artifacts(settings, queue, descriptors.transfers, share))
        await stack.enter_async_context(queue.running())
        descriptors.log_shortage(settings.max_connections)  # once it is certain that the server starts
        admission = Admission(descriptors.connections, Clients(settings.trusted_proxies))
        app = create_app(queue, settings, metrics, files, admission, identities)
        server = await stack.enter_async_context(_running(app, settings))
        _tune_garbage_collection()
        listeners = Listeners(
            sockets, tls.context if tls else None, admission, server.connection, settings.body_timeout
        )
        listeners.start()
        if not share:
            announce(sockets, settings)
        status = serving(sockets, settings)
        _tell_ready(manager, status, starting)
        while await signals.get() == signal.SIGHUP:
            manager.reloading()
            listeners.reload()
            _tell_ready(manager, status, starting)
        manager.stopping(f"stopping; waiting requests: {queue.waits}", settings.drain_timeout + END_WITHIN)
        log.info("stopping; answering the waiting requests (%d)", queue.waits)
        if driver.capabilities.shared:
            # This task is not awaited: it runs while everything above is closed.
            giving_up = asyncio.create_task(_give_up(driver, settings.drain_timeout + GIVE_UP_AFTER))
            giving_up.add_done_callback(_retrieve_exception)
        await listeners.stop()
        queue.drain()
        if starting is not None and starting.done():
            starting.result()  # raises why the storage could not start, if that is what stopped the server
    return 0


@asynccontextmanager
async def _taking_time(manager: ServiceManager | SupervisorPipe) -> AsyncIterator[None]:
    """Ask for more time again and again while the storage starts: a journal with millions of jobs takes minutes."""

    async def ask() -> None:
        while True:
            manager.starting("opening the storage", START_WITHIN)
            await asyncio.sleep(START_WITHIN / 3)

    asking = asyncio.create_task(ask(), name="more time for the start")
    try:
        yield
    finally:
        await stop(asking)


def _tell_ready(manager: ServiceManager | SupervisorPipe, status: str, starting: "asyncio.Task[None] | None") -> None:
    """Tell that the server listens, and whether its storage has started, for which nobody has to wait."""
    if starting is None or starting.done():
        manager.ready(status)
        return

    def tell(done: "asyncio.Task[None]") -> None:
        if not done.cancelled() and done.exception() is None:
            manager.status(status)

    manager.ready(f"{status}; the storage does not answer yet")
    starting.add_done_callback(tell)


async def _give_up(driver: Driver, seconds: float) -> None:
    """Close the storage after some time, even if it has not answered every call."""
    await asyncio.sleep(seconds)
    log.warning("the storage does not answer; stopping anyway: writes in progress may or may not have been stored")
    await driver.close()


def _retrieve_exception(task: "asyncio.Task[None]") -> None:
    """Keep asyncio from logging an exception of a task that nobody awaits."""
    if not task.cancelled():
        task.exception()


def _stop_with_the_supervisor(share: ProcessShare, signals: "asyncio.Queue[signal.Signals]") -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(share.supervisor_alive)
        log.error("the supervisor process has died; stopping this one too")
        signals.put_nowait(signal.SIGTERM)

    loop.add_reader(share.supervisor_alive, end)


def _check_body_size(settings: Settings, driver: Driver) -> None:
    """Raise `SettingsError` if the storage cannot store the args of the largest body that the server accepts."""
    largest = driver.capabilities.max_payload
    if settings.max_body_size > largest:
        raise SettingsError(
            f"max_body_size is {settings.max_body_size} bytes, but the storage accepts at most {largest} bytes: "
            "lower max_body_size"
        )


def _receive_signals() -> asyncio.Queue[signal.Signals]:
    """Return a queue into which the signals to the process are put from now on."""
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    return signals


def _queue_options(settings: Settings) -> QueueOptions:
    return QueueOptions(
        heartbeat_timeout=settings.heartbeat_timeout,
        handover_timeout=settings.handover_timeout,
        sweep_interval=settings.sweep_interval,
        worker_timeout=settings.worker_timeout,
        max_waits=settings.max_waits,
        min_free_space=settings.min_free_space,
        largest_body=settings.max_body_size,
    )


@asynccontextmanager
async def _artifacts(
    settings: Settings, queue: JobQueue, max_transfers: int, share: ProcessShare | None
) -> AsyncIterator[Files | None]:
    """Open the artifact store and sweep it in the background; None if artifacts are switched off."""
    location = settings.artifacts or queue.driver.artifacts_directory
    if location is None or location == "none":
        if share is None or share.number == 0:
            _log_missing_artifacts(settings)
        yield None
        return
    limits = FileLimits(
        max_size=settings.max_artifact_size,
        max_files=settings.max_artifacts,
        max_total=settings.max_artifacts_size,
        min_free_space=settings.min_free_space,
        max_transfers=max_transfers,
    )
    files = Files(open_store(location), limits=limits)
    await files.start()
    await files.space.look()
    sweeper = Sweeper(files, queue.driver)
    queue.listeners.append(sweeper.on_news)
    queue.on_removed = sweeper.on_removed
    tasks = [
        asyncio.create_task(sweeper.run(), name="artifact sweeper"),
        asyncio.create_task(files.space.run(), name="free space of the artifacts"),
    ]
    try:
        yield files
    finally:
        await stop(*tasks)
        await files.close()


def _log_missing_artifacts(settings: Settings) -> None:
    """Log that uploads are refused, so that nobody finds out at the first upload."""
    if settings.artifacts is None:
        log.warning(
            "artifacts are switched off, because this storage has no place for them: uploads are refused; set "
            "artifacts to a directory, or to none if no job has files"
        )
    else:
        log.info("artifacts are switched off, as the setting artifacts says: uploads are refused")


@asynccontextmanager
async def _running(app: web.Application, settings: Settings) -> AsyncIterator[Server]:
    """Run an application. At the end, requests in progress get some time, and then every connection is closed."""
    runner = Runner(
        app,
        handle_signals=False,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=KEEP_ALIVE,
        shutdown_timeout=CANCEL_WITHIN,
        lingering_time=0,  # `composerd.http.lingering` does that
    )
    await runner.setup()
    server = runner.server
    assert isinstance(server, Server)
    inspection = Inspection(server.open, settings.body_timeout)
    task = asyncio.create_task(inspection.run(), name="inspection of connections")
    try:
        yield server
    finally:
        await server.drain(max(settings.drain_timeout - 0.5, 0.1))
        await runner.cleanup()
        await stop(task)


def _tune_garbage_collection() -> None:
    """Collect garbage rarely: nearly nothing is cyclic here, and looking through a million jobs takes long."""
    gc.set_threshold(50_000, 20, 50)
    gc.freeze()  # objects that live as long as the process are not looked at again
