"""Runs a command as a worker's handler: in a scratch directory for each job, stopped when the job is canceled."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from composerd.client import ClientError, JobContext

TAIL = 64 * 1024
"""Size in bytes of the end of each output that goes into the result."""

KILL_AFTER = 10.0
"""Seconds that a command may take to exit after SIGTERM, before it gets SIGKILL."""

_PROGRESS_INTERVAL = 0.25
"""Seconds between two reads of the progress file."""

_EOF_WITHIN = 1.0
"""Seconds that the output of a killed process group may stay open."""

_JOB_ERROR_ID = 10
"""The `id` in the `job_error` of a command that failed."""


class Command:
    """Runs a command for each job. The object is a handler for `composerd.client.Worker`."""

    def __init__(self, arguments: Sequence[str], arch: str) -> None:
        self._arguments = arguments
        self._arch = arch
        self.failed = False
        """True once a job has failed."""

    async def __call__(self, job: JobContext) -> Any:
        """Run the command for a job, and return the job's result."""
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="composerd-job-"))
        try:
            result = await self._run(job, scratch)
        except OSError as exc:
            result = {"job_error": _error(f"{exc.filename or self._arguments[0]}: {exc.strerror}")}
        except (ClientError, ValueError) as exc:  # a refused upload; a name or a number that JSON cannot represent
            result = {"job_error": _error(str(exc))}
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        self.failed = self.failed or (isinstance(result, dict) and result.get("job_error") is not None)
        return result

    async def _run(self, job: JobContext, scratch: Path) -> Any:
        paths = await asyncio.to_thread(_prepare, scratch, job)
        process = await asyncio.create_subprocess_exec(
            *self._arguments,
            cwd=scratch / "work",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            env={
                **os.environ,
                "COMPOSERD_JOB_ID": job.id,
                "COMPOSERD_JOB_TYPE": job.type,
                "COMPOSERD_ARCH": self._arch,
                **paths,
            },
        )
        assert process.stdout is not None
        assert process.stderr is not None
        stdout, stderr = bytearray(), bytearray()
        tails = [
            asyncio.create_task(_tail(process.stdout, stdout)),
            asyncio.create_task(_tail(process.stderr, stderr)),
        ]
        feeding = asyncio.create_task(_feed(process, job.args_json or b"null"))
        try:
            with await asyncio.to_thread(Path(paths["COMPOSERD_PROGRESS"]).open, "rb") as progress:
                status = await self._watch(job, process, progress)
        finally:
            feeding.cancel()
            await asyncio.shield(_stop(process, [*tails, feeding]))
        problem = await self._upload(job, Path(paths["COMPOSERD_ARTIFACTS"]))
        output = {"exit_status": status, "stdout": _text(stdout), "stderr": _text(stderr)}
        return _result(Path(paths["COMPOSERD_RESULT"]), output, problem or _exit_problem(status, stderr))

    @staticmethod
    async def _watch(job: JobContext, process: asyncio.subprocess.Process, progress: BinaryIO) -> int:
        """Report progress until the command has exited, and return its exit status.

        Does not wait for its output to be closed: processes that the command has left behind may keep it open.
        """
        waiting = asyncio.create_task(process.wait())  # also waits until the output is closed
        rest = b""
        try:
            while process.returncode is None:
                await asyncio.wait([waiting], timeout=_PROGRESS_INTERVAL)
                rest = await _report_progress(job, rest + progress.read())
            await _report_progress(job, rest + progress.read() + b"\n")
        finally:
            waiting.cancel()
        return process.returncode

    @staticmethod
    async def _upload(job: JobContext, directory: Path) -> str | None:
        for path in sorted(directory.iterdir()):
            if not path.is_file():
                return f"{path.name} in $COMPOSERD_ARTIFACTS is not a file"
            await job.upload(path.name, path)
        return None


def _prepare(scratch: Path, job: JobContext) -> dict[str, str]:
    """Create the files and directories for a command, and return the environment variables with their paths."""
    (scratch / "work").mkdir()
    (scratch / "artifacts").mkdir()
    (scratch / "progress").touch()
    (scratch / "dynamic_args.json").write_bytes(job.dynamic_args_json)
    return {
        "COMPOSERD_DYNAMIC_ARGS": str(scratch / "dynamic_args.json"),
        "COMPOSERD_ARTIFACTS": str(scratch / "artifacts"),
        "COMPOSERD_RESULT": str(scratch / "result.json"),
        "COMPOSERD_PROGRESS": str(scratch / "progress"),
    }


def _result(path: Path, output: dict[str, Any], problem: str | None) -> Any:
    """Return the result that the command wrote, byte for byte, or else `output`.

    If there was a problem, the result gets a `job_error`, unless the command wrote one itself.
    """
    written: Any = output
    if path.exists():
        try:
            data = path.read_bytes()
            str(data, "utf-8")  # msgspec does not check the encoding of strings in a Raw value
            written = msgspec.json.decode(data, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            problem = problem or f"the file $COMPOSERD_RESULT is not JSON: {exc}"
    if problem is None:
        return written
    if isinstance(written, msgspec.Raw):
        written = msgspec.json.decode(written)
    if not isinstance(written, dict):
        written = {"result": written}
    return {**written, "job_error": written.get("job_error") or _error(problem)}


def _exit_problem(status: int, stderr: bytearray) -> str | None:
    if status == 0:
        return None
    last = _text(stderr).strip().rpartition("\n")[2][-500:]
    why = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    return f"The command {why}" + (f": {last}" if last else ".")


def _error(reason: str) -> dict[str, Any]:
    return {"id": _JOB_ERROR_ID, "reason": reason, "details": None}


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # the command may close stdin without reading it
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _tail(stream: asyncio.StreamReader, tail: bytearray) -> None:
    while part := await stream.read(TAIL):
        tail += part
        del tail[:-TAIL]


def _text(output: bytearray) -> str:
    return output.decode("utf-8", "replace")


async def _report_progress(job: JobContext, appended: bytes) -> bytes:
    """Report the last line of `appended` that is JSON as progress, and return the incomplete line at its end."""
    *lines, rest = appended.split(b"\n")
    for line in reversed(lines):
        try:
            partial = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue  # only lines with JSON are progress
        with contextlib.suppress(ClientError):  # if the job was canceled, the worker stops it elsewhere
            await job.progress(partial)
        break
    return rest


async def _stop(process: asyncio.subprocess.Process, outputs: Sequence["asyncio.Task[Any]"]) -> None:
    """Stop the processes that are left in the command's group: SIGTERM first, then SIGKILL after `KILL_AFTER` seconds.

    A process may have left the group, as daemons do. If it keeps the command's output open, the pipes are closed here.
    """
    _signal_group(process.pid, signal.SIGTERM)
    waiting = asyncio.create_task(process.wait())
    await asyncio.wait([waiting, *outputs], timeout=KILL_AFTER)
    _signal_group(process.pid, signal.SIGKILL)
    _, still_open = await asyncio.wait([waiting, *outputs], timeout=_EOF_WITHIN)
    for task in still_open:
        task.cancel()
    if still_open:
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  # no public way


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
