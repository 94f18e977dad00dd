"""SyncComposerClient: the methods of `ComposerClient` for code without `await`."""

import threading
import weakref
from types import TracebackType
from typing import Any, Self

from composerd_client.blocking import LoopThread, blocking, iterating, with_arguments_of
from composerd_client.composer import ComposerClient


class SyncComposerClient:
    """A client of the composer API for code without `await`: scripts, threads and notebooks.

    >>> with SyncComposerClient("http://127.0.0.1:8700") as composer:
    ...     job = composer.submit("build", args={"what": "an image"})
    ...     job = composer.wait(job.id)

    It takes the arguments of `ComposerClient` and has its methods, with the same arguments, results and errors. What is
    an asynchronous iterator there is an iterator here. Any number of threads may use it at the same time, also threads
    with an event loop of their own. Ctrl-C ends a call that waits.

    The requests are sent in a thread of its own, from the first call, or from the beginning of a `with` block, to
    `close` or the end of the block. Then it cannot be used again: its methods raise `RuntimeError`.
    """

    @with_arguments_of(ComposerClient)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._asynchronous = ComposerClient(*args, **kwargs)
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._closed = False

    def __enter__(self) -> Self:
        self._client_loop  # noqa: B018  # start the thread
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _client_loop(self) -> LoopThread:
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._thread is None:
                self._thread = LoopThread(self._asynchronous)
                weakref.finalize(self, self._thread.stop)  # also if the program ends, or forgets the client
            return self._thread

    def close(self) -> None:
        """Close all connections. Calls of other threads that still wait raise `RuntimeError`."""
        with self._lock:
            self._closed = True
        if self._thread is not None:
            self._thread.stop()

    submit = blocking(ComposerClient.submit)
    submit_graph = blocking(ComposerClient.submit_graph)
    get = blocking(ComposerClient.get)
    get_json = blocking(ComposerClient.get_json)
    follow = iterating(ComposerClient.follow)
    progress = iterating(ComposerClient.progress)
    wait = blocking(ComposerClient.wait)
    cancel = blocking(ComposerClient.cancel)
    delete = blocking(ComposerClient.delete)
    why = blocking(ComposerClient.why)
    why_json = blocking(ComposerClient.why_json)
    whoami = blocking(ComposerClient.whoami)
    whoami_json = blocking(ComposerClient.whoami_json)
    workers = blocking(ComposerClient.workers)
    args = blocking(ComposerClient.args)
    result = blocking(ComposerClient.result)
    artifacts = blocking(ComposerClient.artifacts)
    artifacts_json = blocking(ComposerClient.artifacts_json)
    read = iterating(ComposerClient.read)
    download = blocking(ComposerClient.download)
    list = iterating(ComposerClient.list)
    dependencies = iterating(ComposerClient.dependencies)
    dependents = iterating(ComposerClient.dependents)
