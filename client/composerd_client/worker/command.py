"""Runs a command as a worker's handler: in a scratch directory for each job, stopped when the job is canceled."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

import msgspec

from composerd_client.errors import ClientError, LocalFault, ProxyAnswered, RequestFailed
from composerd_client.job_context import JobContext
from composerd_client.worker.executable import find_executable, problem_with_executable
from composerd_client.worker.health import HealthCheck
from composerd_client.worker.job_files import JobFiles, Progress, Refused
from composerd_client.worker.processes import Process, read_tail
from composerd_client.worker.scratch import described, try_scratch
from composerd_client.worker.tasks import cancel
from composerd_protocol.job_variables import with_aliases

log = logging.getLogger(__name__)

_PROGRESS_INTERVAL = 0.25
"""Seconds between two reads of the progress file."""

_MOST_NAMED = 10
"""Number of refused files that a `job_error` names."""

_JOB_ERROR_ID = 10
"""The `id` in the `job_error` of a command that failed."""

_LOCAL_FAULTS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
)
"""Errors of the worker's own calls that are not due to what a command has left behind."""


class Command:
    """Runs a command for each job. The object is a handler for `composerd_client.Worker`.

    Raises `ValueError` if the command cannot be executed. A job for which it cannot be started raises `LocalFault`.
    """

    def __init__(self, arguments: Sequence[str], arch: str, health_check: HealthCheck | None = None) -> None:
        self._arguments = [find_executable(arguments[0]), *arguments[1:]]
        self._arch = arch
        self._health_check = health_check

    async def __call__(self, job: JobContext) -> Any:
        """Run the command for a job, and return the job's result."""
        result: Any
        try:
            files = await asyncio.to_thread(JobFiles, job)
        except OSError as exc:
            raise LocalFault(described(exc)) from exc
        except RuntimeError as exc:  # no thread can be started
            raise LocalFault(str(exc)) from exc
        try:
            result = await self._run(job, files)
        except OSError as exc:
            if exc.errno in _LOCAL_FAULTS:
                raise LocalFault(_described(exc)) from exc
            result = {"job_error": _error(_described(exc))}
        except (ClientError, ValueError) as exc:  # the server is lost; a number that JSON cannot represent
            result = {"job_error": _error(str(exc))}
        finally:
            await asyncio.to_thread(files.close)
        return result

    async def problem(self) -> str | None:
        """Return why no job can be run now, or None. This is the health check of a worker with this handler."""
        problem = await asyncio.to_thread(self._problem)
        return await self._health_check() if problem is None and self._health_check is not None else problem

    def _problem(self) -> str | None:
        problem = problem_with_executable(self._arguments[0])
        if problem is None:
            try:
                try_scratch()
            except OSError as exc:
                problem = described(exc)
        return problem

    async def _run(self, job: JobContext, files: JobFiles) -> Any:
        variables = {
            "COMPOSERD_JOB_ID": job.id,
            "COMPOSERD_JOB_TYPE": job.type,
            "COMPOSERD_JOB_ARCH": self._arch,
            **files.environment,
        }
        environment = {**os.environ, **with_aliases(variables)}
        process = await Process.start(self._arguments, files.path / "work", environment, scratch=files.scratch)
        stdout, stderr = bytearray(), bytearray()
        tails = [
            asyncio.create_task(read_tail(process.stdout, stdout)),
            asyncio.create_task(read_tail(process.stderr, stderr)),
        ]
        feeding = asyncio.create_task(_feed(process.stdin, job.args_json or b"null"))
        try:
            status = await self._watch(job, process, files.progress)
        finally:
            feeding.cancel()
            await asyncio.shield(process.end([*tails, feeding]))
        problems = [_exit_problem(status, stderr), await _upload(job, files)]
        output = {"exit_status": status, "stdout": _text(stdout), "stderr": _text(stderr)}
        return await asyncio.to_thread(_result, job.id, files, output, problems)

    @staticmethod
    async def _watch(job: JobContext, process: Process, progress: Progress) -> int:
        """Report progress until the command has exited, and return its exit status."""
        exited = asyncio.create_task(process.exited())
        try:
            while not exited.done():
                await asyncio.wait([exited], timeout=_PROGRESS_INTERVAL)
                await _report_progress(job, progress.lines())
            await _report_progress(job, progress.lines(ended=True))
        finally:
            await cancel(exited)
        return exited.result()


async def _upload(job: JobContext, files: JobFiles) -> str | None:
    """Upload the artifacts, and return what is wrong with those that were refused, here or by the server."""
    refused = _Refusals()
    try:
        with files.artifacts() as artifacts:
            for name in await asyncio.to_thread(artifacts.names):
                try:
                    file = await asyncio.to_thread(artifacts.open, name)
                except Refused as exc:
                    refused.add(f"{name[:100]!r} {exc}")
                    continue
                with file:
                    try:
                        await job.upload(name, file)
                    except RequestFailed as exc:
                        by_server = f"{name[:100]!r} was refused by the server: {exc}"
                        refused.add(str(exc) if isinstance(exc, ProxyAnswered) else by_server)
                        break  # the reason may hold for all that follow
    except OSError as exc:
        if exc.errno in _LOCAL_FAULTS:
            raise
        refused.add(f"{exc.filename or 'a file'}: {exc.strerror}")
    if not refused.count:
        return None
    return f"Not uploaded from $COMPOSERD_JOB_ARTIFACTS: {refused}"


class _Refusals:
    """The files that were refused: the first of them by name, and the number of all."""

    def __init__(self) -> None:
        self.count = 0
        self._named: list[str] = []

    def add(self, reason: str) -> None:
        """Add a file with the reason."""
        self.count += 1
        if self.count <= _MOST_NAMED:
            self._named.append(reason)

    def __str__(self) -> str:
        more = [f"and {self.count - _MOST_NAMED} more"] if self.count > _MOST_NAMED else []
        return "; ".join([*self._named, *more])


def _result(job_id: str, files: JobFiles, output: dict[str, Any], problems: list[str | None]) -> Any:
    """Return the result that the command wrote, byte for byte, or else `output`.

    If there were problems, the result gets a `job_error`, unless the command wrote one itself.
    """
    written: Any = output
    try:
        data = files.result()
        if data is not None:
            str(data, "utf-8")  # msgspec does not check the encoding of strings in a Raw value
            written = msgspec.json.decode(data, type=msgspec.Raw)
    except Refused as exc:
        problems.append(f"The file $COMPOSERD_JOB_RESULT {exc}")
    except OSError as exc:
        if exc.errno in _LOCAL_FAULTS:
            raise
        problems.append(f"The file $COMPOSERD_JOB_RESULT cannot be read: {exc.strerror}")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        problems.append(f"The file $COMPOSERD_JOB_RESULT is not JSON: {exc}")
    problem = " ".join(filter(None, problems))
    if not problem:
        return written
    if isinstance(written, msgspec.Raw):
        written = msgspec.json.decode(written)
    if not isinstance(written, dict):
        written = {"result": written}
    if written.get("job_error"):
        log.warning("job %s: the command reports an error itself; what else is wrong: %s", job_id, problem)
        return written
    return {**written, "job_error": _error(problem)}


def _exit_problem(status: int, stderr: bytearray) -> str | None:
    if status == 0:
        return None
    last = _text(stderr).strip().rpartition("\n")[2][-500:]
    why = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    return f"The command {why}" + (f": {last}" if last else ".")


def _described(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def _error(reason: str) -> dict[str, Any]:
    return {"id": _JOB_ERROR_ID, "reason": reason, "details": None}


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the command may close stdin without reading it
        stdin.write(data)
        await stdin.drain()
    stdin.close()


def _text(output: bytearray) -> str:
    return output.decode("utf-8", "replace")


async def _report_progress(job: JobContext, lines: Sequence[bytes]) -> None:
    """Report the last of the lines that is JSON as progress."""
    for line in reversed(lines):
        try:
            partial = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            continue  # only lines with JSON are progress
        with contextlib.suppress(ClientError):  # if the job was canceled, the worker stops it elsewhere
            await job.progress(partial)
        break
