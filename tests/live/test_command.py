"""The class `Command` without a server: progress, remaining processes, invalid results."""

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from composerd_client import RequestFailed
from composerd_client.worker import processes
from composerd_client.worker.command import Command


class Job:
    """A fake JobContext."""

    id = "12345678-1234-4123-8123-123456789abc"
    type = "build"
    args_json = b""
    dynamic_args_json = b"[]"

    def __init__(self) -> None:
        self.partials: list[Any] = []
        self.refusing = False
        self.uploads: dict[str, bytes] = {}

    async def progress(self, partial: Any) -> None:
        """Store the progress, or refuse it."""
        if self.refusing:
            raise RequestFailed(400, {"id": "6", "reason": "Job is not running"})
        self.partials.append(partial)

    async def upload(self, name: str, source: BinaryIO) -> None:
        """Store a file, or refuse it as a server does."""
        if name == "large":
            raise RequestFailed(413, {"id": "25", "reason": "Artifact too large"})
        self.uploads[name] = source.read()


async def run(script: str, job: Job | None = None) -> Any:
    """Run a script as a job's command, and return its result."""
    return await Command(["sh", "-c", script], "x86_64")(job or Job())  # type: ignore[arg-type]  # a fake


async def test_the_last_progress_is_reported() -> None:
    """The last line of JSON is reported, even if the command exits at once or does not end the line."""
    job = Job()
    await run('echo \'{"done": 1}\' >> "$COMPOSERD_PROGRESS"; printf 99 >> "$COMPOSERD_PROGRESS"', job)
    assert job.partials[-1] == 99
    job = Job()
    await run('echo 50 >> "$COMPOSERD_PROGRESS"; echo nearly >> "$COMPOSERD_PROGRESS"', job)
    assert job.partials == [50]


async def test_refused_progress() -> None:
    """A command continues if the server refuses its progress, for example after a cancel."""
    job = Job()
    job.refusing = True
    result = await run('echo 1 >> "$COMPOSERD_PROGRESS"; echo done', job)
    assert result["stdout"] == "done\n"


@pytest.mark.parametrize(
    "left", ["sleep 40 &", 'setsid sh -c "touch up; sleep 40" & until [ -e up ]; do sleep 0.01; done;']
)
async def test_remaining_processes_do_not_delay_the_job(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job ends with its command, even if other processes keep the output open or have left the group."""
    monkeypatch.setattr(processes, "KILL_AFTER", 0.3)
    began = time.monotonic()
    result = await run(f"{left} echo done")
    assert (result["exit_status"], result["stdout"]) == (0, "done\n")
    assert time.monotonic() - began < 30


async def test_child_processes_may_clean_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes get SIGTERM and time to clean up; those that ignore it get SIGKILL."""
    child = f'(trap "sleep 0.5; echo clean > {tmp_path}/said; exit" TERM; while :; do sleep 0.05; done) & sleep 0.2'
    await run(child)
    assert (tmp_path / "said").read_text() == "clean\n"
    monkeypatch.setattr(processes, "KILL_AFTER", 0.3)
    result = await run('(trap "" TERM; while :; do sleep 0.05; done) & sleep 0.2; echo done')
    assert result["stdout"] == "done\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('printf \'"\\377"\' > "$COMPOSERD_RESULT"', "The file $COMPOSERD_JOB_RESULT is not JSON"),
        (': > "$COMPOSERD_RESULT"', "The file $COMPOSERD_JOB_RESULT is not JSON"),
        ('mkdir "$COMPOSERD_RESULT"', "The file $COMPOSERD_JOB_RESULT is a directory, not a regular file"),
        ('rmdir "$COMPOSERD_ARTIFACTS"', "artifacts: No such file or directory"),
        ('mkdir "$COMPOSERD_ARTIFACTS/d"', "'d' is a directory, not a regular file"),
        ('touch "$COMPOSERD_ARTIFACTS/.a"', "'.a' is not the name of an artifact, which must not have"),
        ('touch "$COMPOSERD_ARTIFACTS/$(printf "\\377")"', "is not the name of an artifact, which must be UTF-8"),
        ('touch "$COMPOSERD_ARTIFACTS/large"', "'large' was refused by the server: Artifact too large"),
        ('echo \'{"n":1e400}\' > "$COMPOSERD_RESULT"; exit 1', "out of range"),
    ],
)
async def test_errors_of_a_command(script: str, reason: str) -> None:
    """An error of a command fails its job with a reason."""
    result = await run(script)
    assert reason in result["job_error"]["reason"]


async def test_a_cancel_while_the_command_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that has begun to run is stopped with SIGTERM, also if asyncio has not finished starting it."""
    script = f'trap "echo > {tmp_path}/said; exit" TERM; echo > {tmp_path}/up; while :; do sleep 0.1; done'
    running = asyncio.create_task(run(script))

    class Started(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            while not (tmp_path / "up").exists():
                time.sleep(0.01)
            running.cancel()

    monkeypatch.setattr(subprocess, "Popen", Started)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (tmp_path / "said").exists()
