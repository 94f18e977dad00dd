"""`composerd token`: what it prints, and what it does to the file."""

# ruff: noqa: ASYNC240  # the files are small, and nobody else waits for the loop

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import clean_environment
from .test_cli import Ended, composerd


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a tokens file that does not exist."""
    return tmp_path / "tokens"


async def token(path: Path, *arguments: str, stdin: str = "") -> Ended:
    """Run a `composerd token` command on a file."""
    return await composerd("token", *arguments, stdin=stdin.encode(), COMPOSERD_TOKENS=str(path))


async def create(path: Path, *arguments: str, name: str = "builder-7") -> str:
    """Make a token of a worker, and return it."""
    made = await token(path, "create", "--name", name, "--role", "worker", *arguments)
    assert made.code == 0, made
    return made.out.strip()


@pytest.mark.row("Commands", "composerd token create")
@pytest.mark.row("Commands", "composerd token list")
async def test_create_and_list(path: Path) -> None:
    """The secret is all of stdout, so that it can go into a file, and the list shows everything else."""
    made = await token(path, "create", "--name", "ops", "--role", "admin", "--expires", "never")
    assert re.fullmatch(r"composerd_[0-9A-Za-z]{44}\n", made.out)
    assert made.err == "composerd: this token of ops is not shown again; it never expires\n"
    await create(path, "--tenant", "acme", "--expires", "2099-01-31")
    listed = json.loads((await token(path, "list", "--json")).out)
    assert listed["kind"] == "TokenList"
    for one in listed["items"]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.pop("created"))
        assert len(one.pop("id")) == 8
    ops = {"name": "ops", "role": "admin", "tenant": None, "expires": None, "state": "valid"}
    builder = {"name": "builder-7", "role": "worker", "tenant": "acme", "expires": "2099-01-31T00:00:00Z"}
    assert listed["items"] == [ops, {**builder, "state": "valid"}]
    first, second = (await token(path, "list")).out.splitlines()
    assert re.fullmatch(r"ops\tadmin\t\t\S+\tnever\tvalid\t\w{8}", first)
    assert re.fullmatch(r"builder-7\tworker\tacme\t\S+\t2099-01-31T00:00:00Z\tvalid\t\w{8}", second)
    again = await token(path, "create", "--name", "ops", "--role", "viewer")
    assert (again.code, again.out) == (1, "")
    replace = "choose another name, or replace it with `composerd token rotate ops`"
    assert again.err == f"composerd: {path}: there is a token of ops: {replace}\n"


@pytest.mark.row("Commands", "composerd token verify")
@pytest.mark.row("Commands", "composerd token revoke")
async def test_verify_and_revoke(path: Path) -> None:
    """A token is known until it is revoked; a typing error is told from a wrong token; none of them is quoted."""
    secret = await create(path)
    other = await create(path.with_name("other"))
    whose = await token(path, "verify", stdin=f"{secret}\n")
    assert (whose.code, whose.out.split("\t")[0]) == (0, "builder-7")
    assert json.loads((await token(path, "verify", "--json", stdin=f" {secret} ")).out)["role"] == "worker"
    for typed, problem in (
        (other, "nobody has this token"),
        (secret[:-1], "the token has a typing error: it has 53 characters and not 54"),
        (secret[:30] + "_" + secret[31:], "the token has a typing error: its checksum is wrong"),
        ("", "this is not a token of composerd, which begins with composerd_"),
    ):
        assert await token(path, "verify", stdin=typed) == (1, "", f"composerd: {problem}\n")
    said = "builder-7 is revoked; servers notice it within 2 s\n"
    assert await token(path, "revoke", "builder-7") == (0, said, "")
    assert await token(path, "revoke", "builder-7") == (0, "builder-7 was revoked before\n", "")
    assert await token(path, "verify", stdin=secret) == (1, "", "composerd: the token of builder-7 is revoked\n")
    assert await token(path, "revoke", "builder-8") == (1, "", f"composerd: {path}: no token is named builder-8\n")
    assert "\trevoked\t" in (await token(path, "list")).out


@pytest.mark.row("Commands", "composerd token rotate")
async def test_rotate(path: Path) -> None:
    """Another token of an identity works beside the first, which expires after the overlap."""
    first = await create(path, "--tenant", "acme", "--expires", "never")
    second = await token(path, "rotate", "builder-7", "--overlap", "0s", "--expires", "1h")
    assert await token(path, "verify", stdin=first) == (1, "", "composerd: the token of builder-7 has expired\n")
    third = await token(path, "rotate", "builder-7")
    for secret in (second.out, third.out):
        shown = json.loads((await token(path, "verify", "--json", stdin=secret)).out)
        assert (shown["name"], shown["role"], shown["tenant"]) == ("builder-7", "worker", "acme")
    await token(path, "revoke", "builder-7")
    refused = await token(path, "rotate", "builder-7")
    again = "the token of builder-7 is revoked: make another one with `composerd token create`"
    assert refused == (1, "", f"composerd: {path}: {again}\n")


async def test_files_that_cannot_be_used(path: Path) -> None:
    """A file that is missing, has a mistake, or can be written to by others is named with what is wrong."""
    for arguments in (["list"], ["verify"], ["revoke", "a"], ["rotate", "a"]):
        ended = await token(path, *arguments)
        assert (ended.code, ended.out) == (1, "")
        assert re.fullmatch(f"composerd: cannot (read|change) {path}: No such file or directory\n", ended.err)
    path.write_text("name=a\n")
    assert (await token(path, "list")).err.startswith(f"composerd: {path}: line 1: ")
    path.chmod(0o666)
    problem = "other users can write to it (mode 0666): forbid that with `chmod go-w`"
    assert await token(path, "list") == (1, "", f"composerd: {path}: {problem}\n")
    path.chmod(0o600)
    path.write_text("name=a")
    unfinished = f"composerd: the last line of {path} is not whole and counts for nothing: delete it\n"
    assert await token(path, "list") == (0, "", unfinished)


async def test_output_that_nobody_gets(path: Path) -> None:
    """A token whose secret cannot be printed is revoked at once."""
    arguments = ["token", "create", "--name", "a", "--role", "viewer", "--tokens", str(path)]
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230, PTH123  # opens at once
        ended = subprocess.run(  # noqa: ASYNC221  # nothing else runs
            [sys.executable, "-m", "composerd.cli.main", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=clean_environment(),
        )
    assert (ended.returncode, b"cannot write the output" in ended.stderr) == (1, True)
    assert "\trevoked\t" in (await token(path, "list")).out


async def test_a_terminal(path: Path) -> None:
    """On a terminal a token is asked for and not shown, and the answer is a table."""
    secret = await create(path)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs
        [sys.executable, "-m", "composerd.cli.main", "token", "verify", "--tokens", str(path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,  # without a terminal of its own, which would be asked instead
        env=clean_environment() | {"TERM": "xterm", "COLUMNS": "160"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the command has closed the terminal
        while part := os.read(ours, 65536):
            shown += part
            if shown.endswith(b"Token: "):
                os.write(ours, f"{secret}\n".encode())
    os.close(ours)
    assert process.wait() == 0  # it has ended
    assert re.search(rb"role.*\r\nbuilder-7 +worker ", shown)
    assert secret.encode() not in shown
