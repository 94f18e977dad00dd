"""Tests of what a server says at its start about who can send requests to it."""

from pathlib import Path

from ..live.test_tls import Files
from .conftest import Serve


async def test_a_start_that_everybody_can_connect_to(serve: Serve, tmp_path: Path) -> None:
    """A start without TLS on an address that is not loopback is warned of once, with the address."""
    server = await serve("--listen", "0.0.0.0:0", "--listen", f"unix:{tmp_path / 'a.sock'}", storage="memory:")
    public = (await server.line()).split()[-1]

    async def logged() -> bool:
        return b"without TLS and authentication" in server.log

    await server.until(logged)
    assert server.log.count(b"without TLS") == 1
    assert f"listening on {public} without TLS and authentication".encode() in server.log


async def test_a_start_that_is_protected(serve: Serve, tmp_path: Path) -> None:
    """A start on loopback addresses and unix sockets, or with TLS, is warned of by nothing."""
    files = Files(tmp_path)
    plain = await serve("--listen", "[::1]:0", "--listen", f"unix:{tmp_path / 'a.sock'}", storage="memory:")
    secure = await serve(*files.server_options, "--listen", "0.0.0.0:0", storage="memory:")
    for server, more in ((plain, 2), (secure, 1)):
        for _ in range(more):
            assert (await server.line()).startswith("listening on ")
        server.kill(15)
        await server.exited()
        assert b"without TLS" not in server.log
