"""Commands of jobs that try to publish files of their worker, or to stop it with what they leave behind."""

import asyncio
import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from composerd_client import ComposerClient, Worker
from composerd_client.worker.command import Command

from .conftest import COMPOSER, Serve

SECRET = '{"secret": "of the worker"}'


class Ended(NamedTuple):
    """A job that a worker has run."""

    result: Any
    artifacts: dict[str, bytes]

    @property
    def reason(self) -> str:
        """The reason in the `job_error` of the result."""
        return str(self.result["job_error"]["reason"])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Create a file of the worker's."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "file").write_text(SECRET)
    return tmp_path / "secrets" / "file"


async def run(serve: Serve, tmp_path: Path, script: str) -> Ended:
    """Run a script as the command of a job, and return the ended job with its artifacts."""
    server = await serve("--artifacts", str(tmp_path / "artifacts"), storage="memory:")
    worker = Worker(server.url, arch="x86_64")
    worker.handler("build")(Command(["sh", "-c", script], "x86_64"))
    job = await server.submit()
    async with asyncio.timeout(20), ComposerClient(server.url) as composer:
        await worker.run(jobs=1)
        found = await composer.artifacts(job["id"])
        artifacts = {one.name: b"".join([part async for part in composer.read(one)]) for one in found}
    status, ended = await server.request("GET", f"{COMPOSER}/jobs/{job['id']}")
    assert status == 200
    assert b"secret" not in repr((ended, artifacts)).encode()
    return Ended(ended["result"], artifacts)


BIND = 'import os, socket; os.chdir(os.environ["COMPOSERD_ARTIFACTS"]); socket.socket(socket.AF_UNIX).bind("x")'

REFUSED = {
    "a link": ('ln -s {secret} "$COMPOSERD_ARTIFACTS/x"', "'x' is a symbolic link, not a regular file"),
    "a directory": ('mkdir "$COMPOSERD_ARTIFACTS/x"', "'x' is a directory, not a regular file"),
    "a linked directory": ('ln -s {secret}/.. "$COMPOSERD_ARTIFACTS/x"', "'x' is a symbolic link"),
    "a pipe": ('mkfifo "$COMPOSERD_ARTIFACTS/x"', "'x' is a named pipe, not a regular file"),
    "a socket": ("python3 -c {bind}", "'x' is a socket, not a regular file"),
    "a dotfile": ('echo 1 > "$COMPOSERD_ARTIFACTS/.x"', "'.x' is not the name of an artifact, which must not have"),
    "a control character": ('echo 1 > "$COMPOSERD_ARTIFACTS/$(printf "a\\033b")"', r"'a\x1bb' is not the name of"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_no_artifact(serve: Serve, tmp_path: Path, secret: Path, what: str) -> None:
    """A job with something else among its artifacts fails with its name and the reason, and keeps its output."""
    script, reason = REFUSED[what]
    good = 'echo fine > "$COMPOSERD_ARTIFACTS/a"; echo fine > "$COMPOSERD_ARTIFACTS/z"; echo said'
    ended = await run(serve, tmp_path, f"{good}; {script.format(secret=secret, bind=shlex.quote(BIND))}")
    assert reason in ended.reason
    assert (ended.result["exit_status"], ended.result["stdout"]) == (0, "said\n")
    assert ended.artifacts["a"] == ended.artifacts["z"] == b"fine\n"


async def test_many_refused_files(serve: Serve, tmp_path: Path) -> None:
    """Of many refused files the first ones are named, and the others counted."""
    ended = await run(serve, tmp_path, 'cd "$COMPOSERD_ARTIFACTS"; mkdir $(seq 10 49)')
    assert ended.reason.count("is a directory") == 10
    assert ended.reason.endswith("'19' is a directory, not a regular file; and 30 more")


async def test_the_commands_own_result_stays(serve: Serve, tmp_path: Path, secret: Path) -> None:
    """The result that the command wrote is reported, with a `job_error` beside it."""
    script = f'echo \'{{"built": 1}}\' > "$COMPOSERD_RESULT"; ln -s {secret} "$COMPOSERD_ARTIFACTS/x"; exit 3'
    ended = await run(serve, tmp_path, script)
    assert ended.result["built"] == 1
    assert "exited with status 3" in ended.reason
    assert "'x' is a symbolic link" in ended.reason


async def test_a_refusal_of_the_server(serve: Serve, tmp_path: Path) -> None:
    """A file that the server refuses is named with the server's reason, and the job keeps its output."""
    server = await serve("--max-artifact-size", "1KiB", "--artifacts", str(tmp_path / "artifacts"), storage="memory:")
    worker = Worker(server.url, arch="x86_64")
    script = 'head -c 2000 /dev/zero > "$COMPOSERD_ARTIFACTS/large"; echo said'
    worker.handler("build")(Command(["sh", "-c", script], "x86_64"))
    job = await server.submit()
    async with asyncio.timeout(20):
        await worker.run(jobs=1)
    result = (await server.job(job["id"]))["result"]
    assert "'large' was refused by the server: " in result["job_error"]["reason"]
    assert result["stdout"] == "said\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('rmdir "$COMPOSERD_ARTIFACTS"; ln -s {directory} "$COMPOSERD_ARTIFACTS"', "artifacts: Not a directory"),
        ('ln -s {secret} "$COMPOSERD_RESULT"', "The file $COMPOSERD_JOB_RESULT is a symbolic link, not a regular file"),
        ('mkfifo "$COMPOSERD_RESULT"', "The file $COMPOSERD_JOB_RESULT is a named pipe, not a regular file"),
        ('truncate -s 1T "$COMPOSERD_RESULT"', "The file $COMPOSERD_JOB_RESULT is larger than 1 GiB"),
    ],
)
async def test_replaced_files(serve: Serve, tmp_path: Path, secret: Path, script: str, reason: str) -> None:
    """A replaced directory of artifacts, or a result that is not a file, is not used, and the job keeps its output."""
    script = script.format(secret=secret, directory=secret.parent)
    ended = await run(serve, tmp_path, f"echo said; {script}")
    assert reason in ended.reason
    assert (ended.result["stdout"], ended.artifacts) == ("said\n", {})


@pytest.mark.parametrize(
    "script",
    [
        'rm "$COMPOSERD_PROGRESS"; mkfifo "$COMPOSERD_PROGRESS"',
        'rm "$COMPOSERD_PROGRESS"; ln -s {secret} "$COMPOSERD_PROGRESS"',
        'truncate -s 1T "$COMPOSERD_PROGRESS"; sleep 0.5',
    ],
)
async def test_a_replaced_progress_file(serve: Serve, tmp_path: Path, secret: Path, script: str) -> None:
    """The file for the progress is opened before the command starts, and what is read of it has a limit."""
    ended = await run(serve, tmp_path, f"echo said; {script.replace('{secret}', str(secret))}")
    assert ended.result == {"exit_status": 0, "stdout": "said\n", "stderr": ""}


async def test_progress_after_a_large_hole(serve: Serve) -> None:
    """The last line of the progress is found after any amount of other data."""
    script = 'truncate -s 1G "$COMPOSERD_PROGRESS"; printf "9\\n{}\\n77\\n" >> "$COMPOSERD_PROGRESS"; sleep 30'
    server = await serve(storage="memory:")
    worker = Worker(server.url, arch="x86_64")
    worker.handler("build")(Command(["sh", "-c", script], "x86_64"))
    job = await server.submit()
    running = asyncio.create_task(worker.run(jobs=1))

    async def reported() -> bool:
        return bool((await server.job(job["id"]))["partial"] == 77)

    await server.until(reported)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Create a file that may belong to another user."""
    (tmp_path / "other").write_text("of another")
    return tmp_path / "other"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("owner", [0, 65534])
async def test_hard_links(serve: Serve, tmp_path: Path, other: Path, owner: int) -> None:
    """A hard link to a file of another user is refused; one to a file of the worker's own user is an artifact."""
    os.chown(other, owner, -1)
    ended = await run(serve, tmp_path, f'ln {other} "$COMPOSERD_ARTIFACTS/x"')
    if owner:
        assert "'x' is a hard link to a file of another user" in ended.reason
    assert ended.artifacts == ({} if owner else {"x": b"of another"})
