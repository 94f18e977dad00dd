"""Methods for code without `await`: each runs a coroutine on an event loop of another thread, and waits for its end."""

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import GenericAlias
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, get_args

P = ParamSpec("P")
T = TypeVar("T")

_END: Any = object()


class ClientLoop:
    """An event loop of another thread, on which coroutines run while any thread waits for them, until it is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, closed: str) -> None:
        """Use a loop. `closed` is the message of errors after it was closed."""
        self.loop = loop
        self._closed_message = closed
        self._closed = False
        self._lock = threading.RLock()  # the garbage collector may close a generator while the lock is held
        self._calls: set[_Call[Any]] = set()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and return its result.

        An exception in the thread that waits, such as `KeyboardInterrupt`, cancels the coroutine and waits for its end.
        Raises `RuntimeError` if this is closed, also meanwhile, and if the loop runs in this thread.
        """
        call = _Call(coroutine)
        try:
            self._refuse_to_wait_for_itself()
            self._soon(partial(self._start, call))
        except RuntimeError:
            coroutine.close()
            raise
        try:
            return call.outcome.result()
        except BaseException:
            if not call.outcome.done():
                with suppress(RuntimeError):
                    self._soon(call.cancel)
                wait([call.outcome])
            raise

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Yield the items of an asynchronous generator, and close it if the iteration ends early."""
        generator = cast("AsyncGenerator[T, None]", items)

        async def step() -> T:
            return await anext(generator, _END)

        try:
            while (item := self.call(step())) is not _END:
                yield item
        finally:
            # It is not waited for, because the garbage collector may run this in any thread.
            with suppress(RuntimeError):  # a loop that ends closes its generators
                self._soon(lambda: self._start(_Call(_closing(generator))))

    def close(self) -> None:
        """Cancel what runs, and refuse further calls. Call this on the loop."""
        with self._lock:
            self._closed = True
        for call in tuple(self._calls):
            call.cancel()

    def _soon(self, callback: Callable[[], object]) -> None:
        with self._lock:  # what gets in here before it is closed is started or refused by the loop
            if self._closed:
                raise RuntimeError(self._closed_message)
            self.loop.call_soon_threadsafe(callback)

    def _start(self, call: "_Call[Any]") -> None:
        self._calls.add(call)
        call.start(self._end)
        if self._closed:
            call.cancel()

    def _end(self, call: "_Call[Any]", task: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if task.cancelled():
            call.outcome.set_exception(RuntimeError(self._closed_message))
        elif (error := task.exception()) is not None:
            call.outcome.set_exception(error)
        else:
            call.outcome.set_result(task.result())

    def _refuse_to_wait_for_itself(self) -> None:
        if self._runs_here():
            raise RuntimeError("called on the event loop that would run it: await the asynchronous method instead")

    def _runs_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False


class LoopThread(ClientLoop):
    """An event loop in a thread of its own, which runs within an asynchronous context manager until it is stopped."""

    def __init__(self, manager: AbstractAsyncContextManager[object]) -> None:
        self._stopping = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=_run, args=(manager, started, self._stopping), name="composerd client", daemon=True
        )
        self._thread.start()
        super().__init__(started.result(), "the client is closed")

    def stop(self) -> None:
        """Cancel what runs, leave the context manager, and end the thread. Does nothing if it is called again."""
        with suppress(RuntimeError):  # it is closed already
            self._soon(self._stop)
        if not self._runs_here():  # as it does if the garbage collector calls this there
            self._thread.join()

    def _stop(self) -> None:
        self.close()
        self._stopping.set()

    def _soon(self, callback: Callable[[], object]) -> None:
        if not self._thread.is_alive() and not self._closed:
            raise RuntimeError("the client belongs to the process that this one was forked from: make another one")
        super()._soon(callback)


class _Blocking(Protocol):
    """An object whose methods run those of an asynchronous object on a loop."""

    @property
    def _asynchronous(self) -> Any: ...

    @property
    def _client_loop(self) -> ClientLoop: ...


def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """Return a method that runs a coroutine method of the asynchronous object, and returns its result."""

    def call(self: _Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._client_loop.call(method(self._asynchronous, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def iterating(
    method: Callable[Concatenate[Any, P], AsyncIterator[T]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """Return a method that yields what an asynchronous generator method of the asynchronous object yields."""

    def iterate(self: _Blocking, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        # As a generator it keeps `self` alive, which is otherwise closed when it is forgotten.
        yield from self._client_loop.iterate(method(self._asynchronous, *args, **kwargs))

    functools.update_wrapper(iterate, method)
    signature = inspect.signature(method)
    returned = GenericAlias(Iterator, get_args(signature.return_annotation))
    iterate.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]  # for `help`
    return iterate


def with_arguments_of(
    constructor: Callable[P, object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Return a decorator for an `__init__` that takes the arguments of another class."""

    def decorated(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        init.__signature__ = inspect.signature(constructor.__init__)  # type: ignore[attr-defined]  # for `help`
        return init

    return decorated


class _Call(Generic[T]):
    """A coroutine that runs on a loop, and its outcome, for which a thread waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.outcome: Future[T] = Future()
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None

    def start(self, ended: "Callable[[_Call[T], asyncio.Task[T]], object]") -> None:
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(partial(ended, self))

    def cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()


async def _closing(generator: AsyncGenerator[Any, None]) -> None:
    await generator.aclose()


def _run(
    manager: AbstractAsyncContextManager[object], started: "Future[asyncio.AbstractEventLoop]", stopping: asyncio.Event
) -> None:
    """Run a loop within a context manager until `stopping` is set."""

    async def serve() -> None:
        async with manager:
            started.set_result(asyncio.get_running_loop())
            await stopping.wait()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    # Unlike asyncio.run, this starts no thread to await others, which fails at the end of a program.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(serve())
        loop.run_until_complete(loop.shutdown_asyncgens())
    except BaseException as exc:
        if started.done():
            raise
        started.set_exception(exc)
    finally:
        loop.close()
