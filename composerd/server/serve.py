"""A server process from its start to its end: storage, queue, artifacts, sockets, signals. What it serves is in app."""

import asyncio
import gc
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from composerd.artifacts.files import Files
from composerd.artifacts.stores import open_store
from composerd.artifacts.sweeper import Sweeper
from composerd.driver import Driver
from composerd.driver.registry import open_driver
from composerd.errors import DriverError, DriverTimeout, Unavailable
from composerd.http.app import create_app
from composerd.http.context import ApiOptions, ConnectionLimit
from composerd.http.malformed import Runner
from composerd.queue import JobQueue, QueueOptions
from composerd.server.metrics import Metrics
from composerd.server.sockets import Listeners, announce, close_sockets, open_sockets
from composerd.server.tls import Identity
from composerd.settings import Settings, SettingsError
from composerd.tasks import stop

log = logging.getLogger(__name__)

KEEP_ALIVE = 120.0
"""How long an idle connection is kept, in seconds: longer than the Go client's 90 s, so that it never meets one that was just closed."""

START_WITHIN = 3.0
"""How long a shared storage has to start before the server listens without it, in seconds."""

START_AGAIN = 0.5
"""How long until a storage that did not answer at the start is tried again, in seconds."""

GIVEN_UP_AFTER = 2.0
"""How long after the drain timeout a shared storage that does not answer is waited for, in seconds."""

_SPARE_DESCRIPTORS = 256


class Share(msgspec.Struct, frozen=True):
    """What is different for one of several processes."""

    number: int
    sockets: Sequence[socket.socket]
    """What to listen to, opened for this process."""
    alive: int
    """A descriptor that ends when the supervisor has died."""
    ready: Callable[[], None]
    """To be called when it listens."""


def serve(settings: Settings, share: Share | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises `ListenError`, `SettingsError` or what the storage raises if it cannot start."""
    return asyncio.run(_serve(settings, share))


async def _serve(settings: Settings, share: Share | None) -> int:
    signals = _signals()
    if share:
        _end_with_the_supervisor(share, signals)
    identity = Identity.of(settings)
    if identity is not None:
        identity.context()  # what is wrong with its files is said before anything is opened
    async with AsyncExitStack() as stack:
        sockets = share.sockets if share else open_sockets(settings.listen)
        stack.callback(close_sockets, sockets)
        metrics = Metrics(share.number if share else None)
        driver = open_driver(settings.storage, metrics.called)
        stack.push_async_callback(driver.close)
        _check_that_it_fits(settings, driver)
        starting = await _start(driver, signals)
        if starting is not None:
            stack.push_async_callback(stop, starting)
        queue = JobQueue(
            driver,
            QueueOptions(
                heartbeat_timeout=settings.heartbeat_timeout,
                handover_timeout=settings.handover_timeout,
                sweep_interval=settings.sweep_interval,
                worker_timeout=settings.worker_timeout,
                max_waits=settings.max_waits,
            ),
        )
        files = await stack.enter_async_context(_artifacts(settings, queue))
        await stack.enter_async_context(queue.running())
        connections = ConnectionLimit(_connections_that_fit(settings.max_connections))
        app = create_app(queue, _api_options(settings), metrics, files, connections)
        runner = Runner(
            app,
            handle_signals=False,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE,
            shutdown_timeout=max(settings.drain_timeout - 0.5, 0.1),
        )
        await runner.setup()
        assert runner.server is not None
        open_connections = runner.server._connections  # noqa: SLF001  # the public `connections` copies them for every look
        connections.count = lambda: len(open_connections)
        stack.push_async_callback(runner.cleanup)
        gc.set_threshold(
            50_000, 20, 50
        )  # hardly anything here is cyclic garbage, and a look at a million jobs takes long
        gc.freeze()  # what lives as long as the process need not be looked at again
        listeners = Listeners(runner, sockets, identity.context if identity else None)
        await listeners.start()
        if share:
            share.ready()
        else:
            announce(sockets, tls=identity is not None)
        while await signals.get() == signal.SIGHUP:
            await listeners.reload()
        log.info("draining: %d waits are answered", queue.waits)
        if driver.capabilities.shared:  # it goes on until all is over
            giving_up = asyncio.create_task(_give_up(driver, settings.drain_timeout + GIVEN_UP_AFTER))
            giving_up.add_done_callback(_failed)
        await listeners.stop()
        queue.drain()
        if starting is not None and starting.done():
            starting.result()  # what ended it
    return 0


async def _give_up(driver: Driver, seconds: float) -> None:
    """After that time let go of the storage: what it was asked and does not answer, nobody is told of."""
    await asyncio.sleep(seconds)
    log.warning(
        "the storage does not answer: what it was asked to write and has not acknowledged may be written, or not"
    )
    await driver.close()


def _end_with_the_supervisor(share: Share, signals: "asyncio.Queue[signal.Signals]") -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(share.alive)
        log.error("the process that supervises this one has died")
        signals.put_nowait(signal.SIGTERM)

    loop.add_reader(share.alive, end)


def _check_that_it_fits(settings: Settings, driver: Driver) -> None:
    """A body may be all args: raise `SettingsError` if the storage would not take them."""
    most = driver.capabilities.max_payload
    if settings.max_body_size > most:
        raise SettingsError(
            f"max_body_size is {settings.max_body_size} bytes, but the storage takes payloads of up to {most} bytes"
        )


async def _start(driver: Driver, signals: "asyncio.Queue[signal.Signals]") -> "asyncio.Task[None] | None":
    """Start the driver. A shared storage that does not answer yet is no reason not to serve: then it is started later, by the task.

    Until then everything that needs the storage is answered with error 28, and `readyz` says so.
    """
    if not driver.capabilities.shared:
        await driver.start()
        return None
    first = asyncio.create_task(driver.start())
    await asyncio.wait([first], timeout=START_WITHIN)
    if first.done() and not _is_away(first.exception()):
        first.result()
        return None
    task = asyncio.create_task(_start_later(driver, first), name="storage start")
    task.add_done_callback(lambda done: signals.put_nowait(signal.SIGTERM) if _failed(done) else None)
    return task


async def _start_later(driver: Driver, start: "asyncio.Task[None]") -> None:
    said = ""
    if not start.done():
        log.warning("the storage takes long to start; until then nothing that needs it is served")
    while True:
        try:
            await start
        except Unavailable as exc:
            if not _is_away(exc):
                raise
            if str(exc) != said:
                said = str(exc)
                log.warning("the storage does not answer yet, it is tried again until it does: %s", said)
        else:
            log.warning("the storage answers")
            return
        await asyncio.sleep(START_AGAIN)
        start = asyncio.create_task(driver.start())


def _is_away(error: BaseException | None) -> bool:
    """Whether a storage that has not started for that may do so later."""
    return isinstance(error, Unavailable) and (isinstance(error, DriverTimeout) or not isinstance(error, DriverError))


def _failed(task: "asyncio.Task[None]") -> bool:
    return not task.cancelled() and task.exception() is not None


def _signals() -> asyncio.Queue[signal.Signals]:
    """What the process is told, from now on."""
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    return signals


@asynccontextmanager
async def _artifacts(settings: Settings, queue: JobQueue) -> AsyncIterator[Files | None]:
    where = settings.artifacts or queue.driver.artifacts_directory
    if where is None or where == "none":
        yield None
        return
    files = Files(open_store(where))
    await files.start()
    sweeper = Sweeper(files, queue.driver)
    queue.listeners.append(sweeper.on_news)
    queue.on_removed = sweeper.on_removed
    task = asyncio.create_task(sweeper.run(), name="artifact sweeper")
    try:
        yield files
    finally:
        await stop(task)
        await files.close()


def _api_options(settings: Settings) -> ApiOptions:
    return ApiOptions(
        worker_base=settings.worker_base_path,
        request_job_timeout=settings.request_job_timeout or None,
        max_retries=settings.max_retries,
        retention=settings.retention or None,
        undequeueable_types=frozenset(settings.undequeueable_types),
        max_body_size=settings.max_body_size,
        max_artifact_size=settings.max_artifact_size,
        allowed_domains=settings.allowed_domains,
    )


def _connections_that_fit(wanted: int) -> int:
    """Raise the limit of file descriptors to fit; how many connections that allows, fewer than wanted if the system says no."""
    need = wanted + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return wanted
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (need, need if hard != resource.RLIM_INFINITY and hard < need else hard)
        )
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        fit = hard - _SPARE_DESCRIPTORS
        log.warning(
            "max_connections is %d, but this process may open %d files only: it takes %d connections; "
            "raise that limit (ulimit -Hn, LimitNOFILE=) for more",
            wanted,
            hard,
            fit,
        )
        return fit
    return wanted
