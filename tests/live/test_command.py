"""The command of `composerd worker` from close by: progress, what it leaves running, results that are none. No server."""

import time
from pathlib import Path
from typing import Any

import pytest

from composerd.cli import command
from composerd.cli.command import Command
from composerd.client import RequestFailed


class Job:
    """In the place of a JobContext."""

    id = "12345678-1234-4123-8123-123456789abc"
    type = "build"
    args_json = b""
    dynamic_args_json = b"[]"

    def __init__(self) -> None:
        self.partials: list[Any] = []
        self.refusing = False

    async def progress(self, partial: Any) -> None:
        """Note it."""
        if self.refusing:
            raise RequestFailed(400, {"id": "6", "reason": "Job is not running"})
        self.partials.append(partial)

    async def upload(self, name: str, source: Path) -> None:
        """Refuse what a server refuses."""
        if name.startswith("."):
            raise RequestFailed(400, {"id": "23", "reason": "Invalid artifact name"})
        name.encode()


async def run(script: str, job: Job | None = None) -> tuple[Any, Command]:
    """Run a script as a job's command; its result."""
    runner = Command(["sh", "-c", script], "x86_64")
    return await runner(job or Job()), runner  # type: ignore[arg-type]  # as much of one as it needs


async def test_the_last_progress_is_reported() -> None:
    """However short the command runs, and though it does not end its line; what is no JSON is none."""
    job = Job()
    await run('echo \'{"done": 1}\' >> "$COMPOSERD_PROGRESS"; printf 99 >> "$COMPOSERD_PROGRESS"', job)
    assert job.partials[-1] == 99
    job = Job()
    await run('echo 50 >> "$COMPOSERD_PROGRESS"; echo nearly >> "$COMPOSERD_PROGRESS"', job)
    assert job.partials == [50]


async def test_progress_that_is_refused_does_no_harm() -> None:
    """A job may be canceled between two looks at its progress: the command goes on until it is told."""
    job = Job()
    job.refusing = True
    result, _ = await run('echo 1 >> "$COMPOSERD_PROGRESS"; echo done', job)
    assert result["stdout"] == "done\n"


@pytest.mark.parametrize(
    "left", ["sleep 40 &", 'setsid sh -c "touch up; sleep 40" & until [ -e up ]; do sleep 0.01; done;']
)
async def test_what_a_command_leaves_running_does_not_hold_its_job(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the command; who left the process group may keep its output, nobody listens any more."""
    monkeypatch.setattr(command, "KILL_AFTER", 0.3)
    began = time.monotonic()
    result, _ = await run(f"{left} echo done")
    assert (result["exit_status"], result["stdout"]) == (0, "done\n")
    assert time.monotonic() - began < 30


async def test_the_whole_group_has_time_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that cleans up after SIGTERM is not killed with its parent, which is gone at once; one that does not is, in the end."""
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
    """In a sentence, and the worker knows that it has failed: `--once` exits 1."""
    result, runner = await run(script)
    assert reason in result["job_error"]["reason"]
    assert runner.failed
