"""The threads in which a worker calls what blocks. All are started before the first job."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from composerd_client.errors import LocalFault

_THREADS = 8
"""Number of threads. What runs in them takes milliseconds, such as the removal of a scratch directory."""


@contextlib.contextmanager
def started_threads() -> Iterator[None]:
    """Start the threads that the running loop uses by default, and end them at the end of the block.

    Meanwhile none has to be started, so that a worker can release its jobs, and request more, while its user or its
    unit may have no more threads. Raises `LocalFault` if that is so already.
    """
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="worker")
    all_started = threading.Barrier(_THREADS + 1)
    try:
        for _ in range(_THREADS):
            threads.submit(all_started.wait)
    except RuntimeError as exc:
        all_started.abort()
        threads.shutdown(wait=False, cancel_futures=True)
        raise LocalFault(
            f"no threads can be started ({exc}): raise the limit of processes with ulimit -u, or TasksMax= in the unit"
        ) from exc
    all_started.wait()
    asyncio.get_running_loop().set_default_executor(threads)
    try:
        yield
    finally:
        threads.shutdown()  # the loop starts one more thread when it is closed
