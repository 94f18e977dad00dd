"""The command that `composerd worker` runs, without a server: progress, leftover processes, invalid results."""

import time
from pathlib import Path
from typing import Any

import pytest

from composerd.cli import command
from composerd.cli.command import Command
from composerd.client import RequestFailed


class Job:
    """A substitute for a JobContext."""

    id = "12345678-1234-4123-8123-123456789abc"
    type = "build"
    args_json = b""
    dynamic_args_json = b"[]"

    def __init__(self) -> None:
        self.partials: list[Any] = []
        self.refusing = False

    async def progress(self, partial: Any) -> None:
        """Remember the progress."""
        if self.refusing:
            raise RequestFailed(400, {"id": "6", "reason": "Job is not running"})
        self.partials.append(partial)

    async def upload(self, name: str, source: Path) -> None:
        """Raise for a name that a server refuses."""
        if name.startswith("."):
            raise RequestFailed(400, {"id": "23", "reason": "Invalid artifact name"})
        name.encode()


async def run(script: str, job: Job | None = None) -> tuple[Any, Command]:
    """Run a script as a job's command, and return the result and the command."""
    runner = Command(["sh", "-c", script], "x86_64")
    return await runner(job or Job()), runner  # type: ignore[arg-type]  # as much of one as it needs


async def test_the_last_progress_is_reported() -> None:
    """The last progress is reported after a short run and without a newline; a line that is not JSON is ignored."""
    job = Job()
    await run('echo \'{"done": 1}\' >> "$COMPOSERD_PROGRESS"; printf 99 >> "$COMPOSERD_PROGRESS"', job)
    assert job.partials[-1] == 99
    job = Job()
    await run('echo 50 >> "$COMPOSERD_PROGRESS"; echo nearly >> "$COMPOSERD_PROGRESS"', job)
    assert job.partials == [50]


async def test_progress_that_is_refused_does_no_harm() -> None:
    """Refused progress, as of a job just canceled, does not end the command."""
    job = Job()
    job.refusing = True
    result, _ = await run('echo 1 >> "$COMPOSERD_PROGRESS"; echo done', job)
    assert result["stdout"] == "done\n"


@pytest.mark.parametrize(
    "left", ["sleep 40 &", 'setsid sh -c "touch up; sleep 40" & until [ -e up ]; do sleep 0.01; done;']
)
async def test_what_a_command_leaves_running_does_not_hold_its_job(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job ends with the command, also if a process outside of the process group keeps the output open."""
    monkeypatch.setattr(command, "KILL_AFTER", 0.3)
    began = time.monotonic()
    result, _ = await run(f"{left} echo done")
    assert (result["exit_status"], result["stdout"]) == (0, "done\n")
    assert time.monotonic() - began < 30


async def test_the_whole_group_has_time_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has time to clean up after SIGTERM although its parent has ended, and is killed if it does not end."""
    child = f'(trap "sleep 0.5; echo clean > {tmp_path}/said; exit" TERM; while :; do sleep 0.05; done) & sleep 0.2'
    await run(child)
    assert (tmp_path / "said").read_text() == "clean\n"
    monkeypatch.setattr(command, "KILL_AFTER", 0.3)
    result, _ = await run('(trap "" TERM; while :; do sleep 0.05; done) & sleep 0.2; echo done')
    assert result["stdout"] == "done\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('printf \'"\\377"\' > "$COMPOSERD_RESULT"', "the file $COMPOSERD_RESULT is not JSON"),
        (': > "$COMPOSERD_RESULT"', "the file $COMPOSERD_RESULT is not JSON"),
        ('mkdir "$COMPOSERD_RESULT"', "result.json: Is a directory"),
        ('rmdir "$COMPOSERD_ARTIFACTS"', "artifacts: No such file or directory"),
        ('mkdir "$COMPOSERD_ARTIFACTS/d"', "d in $COMPOSERD_ARTIFACTS is not a file"),
        ('touch "$COMPOSERD_ARTIFACTS/.a"', "Invalid artifact name"),
        ('touch "$COMPOSERD_ARTIFACTS/$(printf "\\377")"', "surrogates not allowed"),
        ('echo \'{"n":1e400}\' > "$COMPOSERD_RESULT"; exit 1', "out of range"),
    ],
)
async def test_what_a_command_does_wrong_fails_its_job(script: str, reason: str) -> None:
    """A mistake of the command fails the job with one sentence, and the worker knows that it failed."""
    result, runner = await run(script)
    assert reason in result["job_error"]["reason"]
    assert runner.failed
