"""The command of a worker, which is looked for before the first request for a job."""

import asyncio
import contextlib
import os
import re
import sys
from pathlib import Path

import pytest

from composerd_client.worker.command import Command

from .conftest import Serve, Server
from .test_cli import composerd, ended, environment


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("/opt/not/there", None, "the command '/opt/not/there' cannot be executed: No such file or directory"),
        ("not-there", None, "the command 'not-there' was not found in PATH"),
        ("./directory", None, "/directory' is a directory"),
        ("./plain", "#!/bin/sh\n", "/plain' is not executable by this user; change that with chmod +x"),
        ("./script", "#!/no/such/shell -e\n", "the interpreter '/no/such/shell' in the first line"),
        ("./script", "#!/usr/bin/env nosuchshell\n", "the interpreter 'nosuchshell' in the first line"),
        ("./script", "#!/bin/sh\r\n", "end with CR LF"),
        ("./script", "echo\n", "is a text without a first line such as #!/bin/sh"),
        ("./script", "", "is an empty file"),
    ],
)
def test_a_command_that_cannot_be_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, reason: str
) -> None:
    """A command that cannot be executed is refused with a sentence that says why."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content.encode())
        (tmp_path / name).chmod(0o644 if name == "./plain" else 0o755)
    with pytest.raises(ValueError, match=re.escape(reason)):
        Command([name], "x86_64")


async def test_the_exit_code() -> None:
    """A worker whose command cannot be executed exits with 2 and one sentence, before it asks a server."""
    for name in ("/opt/not/there", "./not/there", "not-there"):
        result = await composerd("worker", "--type", "build", "--server", "http://127.0.0.1:1", "--", name)
        assert (result.code, result.out) == (2, "")
        assert re.fullmatch("composerd: the command '.*not.there' .*\n", result.err)


async def test_arguments_that_are_no_names_of_files(server: Server) -> None:
    """A worker starts although an argument of its command is too long for the name of a file."""
    script = f"echo {'x' * 300}"
    job = await server.submit()
    assert (await composerd("worker", "--type", "build", "--once", "--", "sh", "-c", script, server=server)).code == 0
    assert (await ended(server, job))["result"]["stdout"] == f"{'x' * 300}\n"


async def test_a_relative_command(serve: Serve, tmp_path: Path) -> None:
    """A relative command, and one that a relative directory of PATH has, is found from where the worker was started."""
    server = await serve(storage="memory:")
    (tmp_path / "build.sh").write_text("#!/bin/sh\necho built\n")
    (tmp_path / "build.sh").chmod(0o755)
    for name, path in (("./build.sh", os.environ["PATH"]), ("build.sh", f".:{os.environ['PATH']}")):
        job = await server.submit()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "composerd.cli.main", "worker", "--type", "build", "--once", "--", name),
            cwd=tmp_path,
            env=environment(server, {"PATH": path}),
        )
        try:
            assert (await ended(server, job))["result"] == {"exit_status": 0, "stdout": "built\n", "stderr": ""}
            assert await process.wait() == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
