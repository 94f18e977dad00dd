"""Commands as processes that do not outlive their worker: each has a guardian, which ends what it has started."""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from composerd_client.errors import LocalFault
from composerd_client.worker.cgroups import remove_left_cgroups
from composerd_client.worker.scratch import Scratch
from composerd_protocol import job_variables
from composerd_protocol.options import PASSED_ON

KILL_AFTER = 10.0
"""Seconds that processes may take to exit after SIGTERM, before they get SIGKILL."""

TAIL = 64 * 1024
"""Size in bytes of the end of an output that `read_tail` keeps."""

_GIVE_UP_AFTER = 7.0
"""Seconds after that for which the end of all processes is waited for."""

_EOF_WITHIN = 1.0
"""Seconds that the output of processes may stay open once they should have ended."""

_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); import cgroups, guardian; guardian.run(cgroups.new_cgroup)"
"""The program of a guardian, which does not import the package. A file would be compiled at each start."""

_DIRECTORY = str(Path(__file__).parent)


class Process:
    """A command that was started, and everything that it starts. Create it with `start`, and end it with `end`."""

    def __init__(
        self,
        guarded: asyncio.subprocess.Process,
        told: asyncio.StreamReader,
        telling: asyncio.StreamWriter,
        kill_after: float,
    ) -> None:
        self._guarded = guarded
        self._told = told
        self._telling = telling
        self._kill_after = kill_after
        assert guarded.stdin is not None
        assert guarded.stdout is not None
        assert guarded.stderr is not None
        self.stdin = guarded.stdin
        self.stdout = guarded.stdout
        self.stderr = guarded.stderr

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        *,
        scratch: Scratch | None = None,
        kill_after: float | None = None,
    ) -> "Process":
        """Start a command, of which the first argument is an absolute path.

        It gets no secrets of composerd from the environment. If the worker is killed, the guardian removes `scratch`,
        whose lock it keeps until then. `kill_after` replaces `KILL_AFTER`. Raises `LocalFault` if the command cannot be
        started. If this is canceled, the command is ended first, if it was started.
        """
        kill_after = KILL_AFTER if kill_after is None else kill_after
        starting = asyncio.create_task(cls._start(command, directory, environment, scratch, kill_after))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.shield(_end_started(starting))
            raise

    @classmethod
    async def _start(
        cls,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        scratch: Scratch | None,
        kill_after: float,
    ) -> "Process":
        lock = -1 if scratch is None else scratch.descriptor
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                told, telling = await asyncio.open_connection(sock=ours)
                try:
                    guarded = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-I", "-S", "-c", _PROGRAM, _DIRECTORY),
                        *(str(theirs.fileno()), str(lock), str(scratch.path) if scratch else "", str(kill_after)),
                        *command,
                        cwd=directory,
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        stderr=asyncio.subprocess.PIPE,
                        start_new_session=True,
                        pass_fds=[each for each in (theirs.fileno(), lock) if each >= 0],
                        env={name: value for name, value in environment.items() if _is_passed_on(name)},
                    )
                except BaseException:
                    telling.close()
                    raise
        except (OSError, RuntimeError) as exc:  # RuntimeError: no thread can be started
            why = getattr(exc, "strerror", None) or exc
            raise LocalFault(f"{command[0]} cannot be started: {why}") from exc
        process = cls(guarded, told, telling, kill_after)
        answer, _, number = (await told.readline()).decode().partition(" ")
        if answer == "started\n":
            return process
        said = (await guarded.stderr.read()).decode(errors="replace").strip() if guarded.stderr is not None else ""
        await process.end()
        why = os.strerror(int(number)) if answer == "failed" else f"the process that guards it failed: {said[-500:]}"
        raise LocalFault(f"{command[0]} cannot be started: {why}")

    async def exited(self) -> int:
        """Wait until the command itself has exited, and return its status. Raises `LocalFault` if it was not guarded.

        Other processes that it has started may still run.
        """
        answer, _, status = (await self._told.readline()).decode().partition(" ")
        if answer != "exited":
            await asyncio.to_thread(remove_left_cgroups)
            raise LocalFault("the process that guards the command was killed")
        return int(status)

    async def end(self, outputs: Sequence["asyncio.Task[Any]"] = ()) -> None:
        """End the processes that are left: SIGTERM first, then SIGKILL after a while.

        `outputs` are tasks that read the output. They are canceled if the output stays open.
        """
        if not self._telling.is_closing():
            self._telling.write_eof()
        ended = asyncio.create_task(self._told.read())  # ends with the guardian
        await asyncio.wait([ended], timeout=self._kill_after + _GIVE_UP_AFTER)
        waiting = asyncio.create_task(self._guarded.wait())
        _, still_open = await asyncio.wait([ended, waiting, *outputs], timeout=_EOF_WITHIN)
        for task in still_open:
            task.cancel()
        self._telling.close()
        if still_open:
            self._guarded._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  # no public way


def _is_passed_on(variable: str) -> bool:
    """Return True if a command may get an environment variable of the worker.

    Of composerd's own, these are those of the job and few others: a variable that is not known here may be a secret.
    """
    if not variable.startswith("COMPOSERD_") or variable.startswith(job_variables.PREFIX):
        return True
    return variable in job_variables.ALIASES or variable in PASSED_ON


async def _end_started(starting: "asyncio.Task[Process]") -> None:
    await asyncio.wait([starting])
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().end()


async def read_tail(stream: asyncio.StreamReader, tail: bytearray) -> None:
    """Read an output to its end, and keep the last `TAIL` bytes of it in `tail`."""
    while part := await stream.read(TAIL):
        tail += part
        del tail[:-TAIL]
