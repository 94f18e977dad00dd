"""A command as a worker's handler: started for each job in a scratch directory, watched, stopped when the job is canceled."""

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
"""How much of each output is kept for the result, in bytes: the last of it."""

KILL_AFTER = 10.0
"""How long a command may take to end after SIGTERM, in seconds."""

_LOOK_AT_PROGRESS = 0.25

_EOF_WITHIN = 1.0
"""How long the output of a group that was killed may stay open, in seconds."""

_FAILED = 10
"""The number of the `job_error` of a command that failed."""


class Command:
    """Runs a command for each job; `__call__` is a handler."""

    def __init__(self, arguments: Sequence[str], arch: str) -> None:
        self._arguments = arguments
        self._arch = arch
        self.failed = False
        """Whether a job has failed."""

    async def __call__(self, job: JobContext) -> Any:
        """Run it for a job; the job's result."""
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="composerd-job-"))
        try:
            result = await self._run(job, scratch)
        except OSError as exc:
            result = {"job_error": _error(f"{exc.filename or self._arguments[0]}: {exc.strerror}")}
        except (ClientError, ValueError) as exc:  # an upload that was refused; a name or a number that JSON cannot have
            result = {"job_error": _error(str(exc))}
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        self.failed = self.failed or (isinstance(result, dict) and result.get("job_error") is not None)
        return result

    async def _run(self, job: JobContext, scratch: Path) -> Any:
        places = await asyncio.to_thread(_prepare, scratch, job)
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
                **places,
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
            with await asyncio.to_thread(Path(places["COMPOSERD_PROGRESS"]).open, "rb") as progress:
                status = await self._watch(job, process, progress)
        finally:
            feeding.cancel()
            await asyncio.shield(_stop(process, [*tails, feeding]))
        problem = await self._upload(job, Path(places["COMPOSERD_ARTIFACTS"]))
        output = {"exit_status": status, "stdout": _text(stdout), "stderr": _text(stderr)}
        return _result(Path(places["COMPOSERD_RESULT"]), output, problem or _exit_problem(status, stderr))

    @staticmethod
    async def _watch(job: JobContext, process: asyncio.subprocess.Process, progress: BinaryIO) -> int:
        """Report progress until the command has ended, though what it left behind may still hold its output; the exit status."""
        waiting = asyncio.create_task(process.wait())  # this alone also waits for the output's end
        rest = b""
        try:
            while process.returncode is None:
                await asyncio.wait([waiting], timeout=_LOOK_AT_PROGRESS)
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
    """Make what the command finds; the variables that say where."""
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
    """What the command wrote as its result, byte for byte, or what it printed; with a `job_error` if there was a problem."""
    written: Any = output
    if path.exists():
        try:
            data = path.read_bytes()
            str(data, "utf-8")  # msgspec does not look into strings that it does not decode
            written = msgspec.json.decode(data, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            problem = problem or f"what is in $COMPOSERD_RESULT is not JSON: {exc}"
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
    return {"id": _FAILED, "reason": reason, "details": None}


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # it need not read it
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _tail(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while part := await stream.read(TAIL):
        kept += part
        del kept[:-TAIL]


def _text(output: bytearray) -> str:
    return output.decode("utf-8", "replace")


async def _report_progress(job: JobContext, appended: bytes) -> bytes:
    """Report the last JSON line of what the command has appended; what follows the last whole line."""
    *lines, rest = appended.split(b"\n")
    for line in reversed(lines):
        try:
            partial = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue  # not JSON: not progress
        with contextlib.suppress(ClientError):  # a job that is canceled just now ends in its own way
            await job.progress(partial)
        break
    return rest


async def _stop(process: asyncio.subprocess.Process, outputs: Sequence["asyncio.Task[Any]"]) -> None:
    """End what is left of the command's process group: politely, then for sure. Whoever holds its output is there."""
    _signal_group(process.pid, signal.SIGTERM)
    waiting = asyncio.create_task(process.wait())
    await asyncio.wait([waiting, *outputs], timeout=KILL_AFTER)
    _signal_group(process.pid, signal.SIGKILL)
    _, held = await asyncio.wait([waiting, *outputs], timeout=_EOF_WITHIN)
    for task in held:  # by somebody who left the group: a daemon
        task.cancel()
    if held:
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  # nothing public lets go of the pipes


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
