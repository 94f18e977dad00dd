"""`composerd login`, `logout` and `whoami` with a server that asks who its clients are."""

import asyncio
import json
import os
import pty
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from composerd.probe import Target
from composerd_client import ComposerClient, client_arguments

from ..tokens import bearer
from .conftest import LOOPBACK, Serve, Server, clean_environment
from .test_cli import Ended, composerd
from .token_server import ID, SECRET, token_server


class User:
    """A user with a directory for profiles, and tokens of a server."""

    def __init__(self, directory: Path, server: Server, tokens: Path) -> None:
        self.config = directory / "composerd"
        self.server = server
        self._directory = directory
        self._tokens = tokens

    async def run(self, *arguments: str, stdin: str = "", **environ: Any) -> Ended:
        """Run a command of this user."""
        return await composerd(*arguments, stdin=stdin.encode(), XDG_CONFIG_HOME=str(self._directory), **environ)

    async def token(self, name: str, role: str, *more: str) -> str:
        """Create a token of the server."""
        ended = await composerd("token", "create", "--tokens", str(self._tokens), "--name", name, "--role", role, *more)
        assert ended.code == 0, ended
        return ended.out.strip()


@pytest.fixture
async def user(serve: Serve, tmp_path: Path) -> User:
    """Return a user, and start a server whose tokens are in a file."""
    tokens = tmp_path / "tokens"
    first = await composerd("token", "create", "--tokens", str(tokens), "--name", "boss", "--role", "admin")
    assert first.code == 0, first
    server = await serve("--tokens", str(tokens))
    (tmp_path / "home").mkdir()
    return User(tmp_path / "home", server, tokens)


async def _known(user: User, name: str, token: str) -> None:
    """Wait until the server knows a token."""

    async def holds() -> bool:
        status, body = await user.server.request("GET", "/api/composer/v1/whoami", headers=bearer(token))
        return status == 200 and body["name"] == name

    await user.server.until(holds)


@pytest.mark.row("Commands", "composerd login")
@pytest.mark.row("Commands", "composerd logout")
async def test_login_and_logout(user: User) -> None:
    """A login stores the token for its owner only, all commands use it, and a logout removes it."""
    token = await user.token("ci", "submitter", "--tenant", "acme")
    await _known(user, "ci", token)
    ended = await user.run("jobs", "--server", user.server.url)
    assert (ended.code, "`composerd login`" in ended.err) == (1, True)
    ended = await user.run("login", user.server.url, stdin=f"{token}\n")
    assert ended.code == 0, ended
    assert ended.out.startswith("name\tci\nrole\tsubmitter\ntenant\tacme\nchannel\torg-acme\nsource\ttoken\n")
    assert "stored as the profile 'default'" in ended.err
    assert token not in ended.out + ended.err + (user.config / "config.toml").read_text()
    assert {one.name: stat.S_IMODE(one.stat().st_mode) for one in user.config.iterdir()} == {
        "config.toml": 0o600,
        "default.token": 0o600,
    }
    assert stat.S_IMODE(user.config.stat().st_mode) == 0o700
    submitted = await user.run("submit", "build")
    assert submitted.code == 0, submitted
    assert submitted.out.strip() in (await user.run("jobs")).out
    shown = await user.run("whoami", "--json")
    assert json.loads(shown.out)["name"] == "ci"
    async with ComposerClient(**client_arguments(environ={"XDG_CONFIG_HOME": str(user.config.parent)})) as composer:
        assert (await composer.whoami()).tenant == "acme"
    ended = await user.run("logout")
    assert (ended.code, ended.out) == (0, "removed the profile 'default'\n")
    assert [one.name for one in user.config.iterdir()] == ["config.toml"]
    assert (await user.run("logout")).code == 1


async def test_what_is_not_stored(user: User) -> None:
    """A token with a typing error, one that the server does not know, and a text that is none are not stored."""
    token = await user.token("ci", "submitter")
    wrong = token[:-1] + ("x" if token[-1] != "x" else "y")
    other = await composerd(
        "token", "create", "--tokens", str(user.config.parent / "o"), "--name", "a", "--role", "admin"
    )
    for text, code, said in (
        (wrong, 2, "typing error"),
        ("secret", 2, "neither a token of composerd, which begins with composerd_, nor a JWT"),
        ("", 2, "Token is missing"),
        (other.out, 1, "Not authenticated"),
    ):
        ended = await user.run("login", user.server.url, stdin=text)
        assert (ended.code, said in ended.err) == (code, True), ended
        assert not text or text.strip() not in ended.err
    ended = await user.run("login", "http://127.0.0.1:9", stdin=token)
    assert ended.code == 3
    ended = await user.run("login", "http://composer.example.com", stdin=token)
    assert (ended.code, "--insecure-http" in ended.err) == (2, True)
    assert not user.config.exists()


async def test_another_profile_stays_as_it_is(user: User) -> None:
    """A login replaces its own profile, and neither another one nor a comment."""
    user.config.mkdir()
    kept = '# mine\n[profiles.other]\nserver = "https://other" # yes\ntoken = "[x]"\n\n'
    (user.config / "config.toml").write_text(f'{kept}[profiles.staging]\nserver = "u"\n')
    (user.config / "config.toml").chmod(0o600)
    token = await user.token("ci", "submitter")
    await _known(user, "ci", token)
    for _ in range(2):
        ended = await user.run("login", user.server.url, "--profile", "staging", stdin=token)
        assert ended.code == 0, ended
    staging = f'[profiles.staging]\nserver = "{user.server.url}"\ntoken_file = "staging.token"\n'
    assert (user.config / "config.toml").read_text() == kept + staging
    assert (await user.run("whoami", COMPOSERD_PROFILE="staging")).code == 0
    ended = await user.run("login", "--profile", "staging", stdin=token)
    assert ended.code == 0, ended
    ended = await user.run("logout", "--profile", "staging")
    assert (user.config / "config.toml").read_text() == kept


async def test_files_instead_of_secrets(user: User, tmp_path: Path) -> None:
    """With --token-file or --cert-file, or for a unix socket, a login stores paths, and asks for nothing."""
    file = tmp_path / "token"
    file.write_text(await user.token("ci", "submitter"))
    await _known(user, "ci", file.read_text())
    ended = await user.run("login", user.server.url, "--token-file", f"{tmp_path}/home/../token")
    assert ended.code == 0, ended
    assert f'token_file = "{file}"' in (user.config / "config.toml").read_text()
    assert [one.name for one in user.config.iterdir()] == ["config.toml"]


async def test_a_worker_has_a_profile_too(user: User) -> None:
    """A worker and a probe use profiles as the other commands do."""
    for name, role in (("builder", "worker"), ("ci", "submitter")):
        token = await user.token(name, role, "--tenant", "acme")
        await _known(user, name, token)
        ended = await user.run("login", user.server.url, "--profile", name, stdin=token)
        assert ended.code == 0, ended
    job = (await user.run("submit", "build", "--profile", "ci")).out.strip()
    ended = await user.run("worker", "--type", "build", "--once", "--profile", "builder", "--", "true")
    assert ended.code == 0, ended
    assert "state\tfinished" in (await user.run("status", job, "--profile", "ci")).out
    ended = await user.run("worker", "--type", "build", "--once", "--profile", "ci", "--", "true")
    assert (ended.code, "`composerd whoami` says who" in ended.err) == (1, True), ended
    arguments = client_arguments(environ={"XDG_CONFIG_HOME": str(user.config.parent)}, profile="ci")
    assert (await Target(user.server.url, arguments).must("GET", "/api/composer/v1/whoami"))["name"] == "ci"
    with pytest.raises(ValueError, match="could read the token"):
        Target("http://composer.example.com", arguments)


async def test_a_token_server(server: Server, tmp_path: Path) -> None:
    """A login with a token server stores its settings, and its secret for the user only; commands get tokens there."""
    async with token_server() as issuer:
        given = ("login", server.url, "--oauth-token-url", issuer.url, "--oauth-client-id", ID)
        environ: dict[str, Any] = {"XDG_CONFIG_HOME": str(tmp_path)}
        ended = await composerd(*given, stdin=b"wrong", **environ)
        assert (ended.code, "invalid_client" in ended.err) == (1, True), ended
        ended = await composerd(*given, stdin=SECRET.encode(), **environ)
        assert ended.code == 0, ended
        assert (tmp_path / "composerd" / "default.client-secret").read_text() == f"{SECRET}\n"
        count = len(issuer.requests)
        submitted = await composerd("submit", "build", **environ)
        assert submitted.code == 0, submitted
        assert len(issuer.requests) == count + 1
        ended = await composerd("jobs", COMPOSERD_OAUTH_CLIENT_SECRET="wrong", **environ)
        assert (ended.code, "invalid_client" in ended.err) == (1, True)
        of_environment: dict[str, Any] = {
            "COMPOSERD_OAUTH_TOKEN_URL": issuer.url,
            "COMPOSERD_OAUTH_CLIENT_ID": ID,
            "COMPOSERD_OAUTH_CLIENT_SECRET": SECRET,
            "COMPOSERD_OAUTH_CLIENT_AUTHENTICATION": "post",
        }
        ended = await composerd("jobs", server=server, **of_environment)
        assert ended.code == 0, ended
        assert issuer.requests[-1]["client_secret"] == SECRET
    ended = await composerd("jobs", **environ)
    assert (ended.code, "cannot get a token from" in ended.err) == (3, True), ended
    ended = await composerd("jobs", **environ, COMPOSERD_OAUTH_CLIENT_AUTHENTICATION="jwt")
    assert ended.code == 2


async def test_a_token_at_a_terminal(user: User) -> None:
    """At a terminal, the token is asked for, and not shown."""
    token = await user.token("ci", "submitter")
    await _known(user, "ci", token)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "composerd.cli.main", "login", user.server.url),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=clean_environment() | {"XDG_CONFIG_HOME": str(user.config.parent), "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while b"Token: " not in shown:
        shown += await asyncio.to_thread(os.read, ours, 4096)
    os.write(ours, f"{token}\n".encode())
    try:
        while part := await asyncio.to_thread(os.read, ours, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert await process.wait() == 0, shown
    assert token.encode() not in shown
    assert (user.config / "default.token").read_text() == f"{token}\n"


async def test_completion_has_the_token(user: User) -> None:
    """The candidates of a completion come from a server that asks who the user is."""
    token = await user.token("ci", "submitter")
    await _known(user, "ci", token)
    assert (await user.run("login", user.server.url, stdin=token)).code == 0
    job = (await user.run("submit", "build")).out.strip()
    completing = {"_COMPOSERD_COMPLETE": "bash_complete", "COMP_WORDS": "composerd cancel ", "COMP_CWORD": "2"}
    assert LOOPBACK in user.server.url

    async def holds() -> bool:  # it is not waited for longer than somebody who types would notice
        return job in (await user.run(**completing)).out

    await user.server.until(holds)
    completing |= {"COMP_WORDS": "composerd jobs --profile ", "COMP_CWORD": "3"}
    assert (await user.run(**completing)).out == "plain,default\n"
