"""The client with a refresh token, which the token server may replace."""

import asyncio
import stat
from pathlib import Path

import pytest
from aiohttp import web

from composerd_client import OAuth

from .test_client_oauth import issuer
from .token_server import ID, SECRET, TokenServer

__all__ = ["issuer"]


async def test_refresh_token(issuer: TokenServer, tmp_path: Path) -> None:
    """A refresh token is sent with the id of the client, and with its secret if it has one."""
    file = tmp_path / "refresh"
    file.write_text("refresh-0")
    assert issuer.accepts(await OAuth(issuer.url, client_id="cli", refresh_token_file=file).token())
    assert issuer.accepts(await OAuth(issuer.url, refresh_token="refresh-0").token())
    with_secret = OAuth(issuer.url, client_id=ID, client_secret=SECRET, refresh_token="refresh-0")
    assert issuer.accepts(await with_secret.token())
    grant = {"grant_type": "refresh_token", "refresh_token": "refresh-0"}
    assert issuer.requests[0] == {**grant, "client_id": "cli"}
    assert issuer.requests[1] == grant
    assert issuer.requests[2].keys() == {*grant, "basic"}


def _names(directory: Path) -> set[str]:
    return {one.name for one in directory.iterdir()}


async def _renew(credentials: OAuth) -> None:
    """Let the server refuse the token, and accept the next one."""
    assert await credentials.renewed(await credentials.token())
    credentials.accepted("")


async def test_a_new_refresh_token_is_kept(
    issuer: TokenServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The new refresh token replaces the one in the file; without a file it is kept in memory."""
    issuer.rotates = True
    file = tmp_path / "refresh"
    file.write_text("refresh-0\n")
    file.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(file)
    credentials = OAuth(issuer.url, refresh_token_file=link)
    for number in (1, 2):
        await _renew(credentials)
        issuer.revoke()
        assert file.read_text() == f"{issuer.refresh_token}\n", number
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert _names(tmp_path) == {"link", "refresh"}

    file.write_text("a-new-login")
    issuer.refresh_token = "a-new-login"  # of a test
    await _renew(credentials)
    assert file.read_text() == f"{issuer.refresh_token}\n"

    in_memory = OAuth(issuer.url, refresh_token=issuer.refresh_token)
    await _renew(in_memory)
    await _renew(in_memory)
    assert caplog.messages == []


async def test_a_refresh_token_that_cannot_be_written(
    issuer: TokenServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file cannot be written, the new refresh token is kept in memory, and the log says so."""
    issuer.rotates = True
    file = tmp_path / "refresh"
    file.write_text("refresh-0")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("composerd_client.private_files.os.fsync", full)
    credentials = OAuth(issuer.url, refresh_token_file=file)
    for _ in range(3):
        await _renew(credentials)
        issuer.revoke()
    assert file.read_text() == "refresh-0"
    assert _names(tmp_path) == {"refresh"}
    assert all("No space left on device" in one for one in caplog.messages)
    assert caplog.messages


async def test_processes_that_share_a_refresh_token(issuer: TokenServer, tmp_path: Path) -> None:
    """A refresh token is used by one process at a time, and each reads what another has written."""
    issuer.rotates = True
    file = tmp_path / "refresh"
    file.write_text("refresh-0")
    several = [OAuth(issuer.url, refresh_token_file=file) for _ in range(5)]
    tokens = await asyncio.gather(*(one.token() for one in several))
    assert len(set(tokens)) == 5
    assert len(issuer.requests) == 5


async def test_a_refresh_token_that_is_none(issuer: TokenServer, tmp_path: Path) -> None:
    """A refresh token in an answer that no file can have replaces nothing, and a file without one is refused."""
    file = tmp_path / "refresh"
    file.write_text("refresh-0\n")

    async def hook(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"access_token": "a", "refresh_token": "two\nlines"})

    issuer.hook = hook
    assert await OAuth(issuer.url, refresh_token_file=file).token() == "a"
    assert file.read_text() == "refresh-0\n"
    for content in ("", "two words", "\u00e9"):
        file.write_text(content)
        with pytest.raises(ValueError, match="has none: write one there"):
            OAuth(issuer.url, refresh_token_file=file)
