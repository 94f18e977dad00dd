"""Tests of where a server listens, and of what it says at its start about who can send requests to it."""

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from composerd.server.sockets import ListenError, open_sockets
from composerd.server.unix_sockets import UnixSocketAccess

from ..live.conftest import clean_environment
from ..live.processes import command
from ..live.test_cli import Ended
from ..live.test_rows_settings import passed
from ..live.test_tls import Files
from .conftest import Serve

OTHERS_CAN_CONNECT = ("0.0.0.0:0", ":0", "[::]:0", "0:0", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1")
"""Addresses that are not loopback addresses; this machine need not have them. The resolver takes `0` for 0.0.0.0."""


FEW = ("--max-connections", "100")
"""An option without which a server on a machine with a low limit of open files warns of that limit."""


async def start(*options: str) -> Ended:
    """Start a server that is expected to end at once; one that does not is killed."""
    process = command("serve", *options, **clean_environment())
    killing = asyncio.get_running_loop().call_later(20, process.send_signal, signal.SIGKILL)
    out = await asyncio.to_thread(process.communicate)
    killing.cancel()
    ended = Ended(process.wait(), out.decode(), process.said().decode())
    process.close()
    return ended


@pytest.mark.parametrize("address", OTHERS_CAN_CONNECT)
@pytest.mark.parametrize("processes", ["1", "2"])
async def test_no_start_where_others_can_connect(address: str, processes: str) -> None:
    """Without identities, a start at an address of other machines is exit code 2 and a sentence with both ways out."""
    storage = "memory:" if processes == "1" else "postgresql://127.0.0.1:1/x"
    ended = await start("--listen", address, "--storage", storage, "--processes", processes)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"composerd: refusing to listen on {address}")
    assert ended.err.count("\n") == 1
    assert "composerd token create" in ended.err
    assert "--insecure" in ended.err


async def test_no_start_at_one_of_several_addresses(tmp_path: Path) -> None:
    """One public address among others is enough for a refusal, and no file of a socket is left."""
    addresses = ("--listen", f"unix:{tmp_path / 'a.sock'}", "--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0")
    ended = await start(*addresses, "--storage", "memory:")
    assert (ended.code, ended.out) == (2, "")
    assert not (tmp_path / "a.sock").exists()


def test_a_name_that_resolves_to_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is refused by the address that it resolves to, which the sentence names."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.7", 8700))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ListenError, match=r"refusing to listen on here\.test:8700 \(192\.0\.2\.7\): "):
        open_sockets(["here.test:8700"], UnixSocketAccess(), local_only=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_socket_of_systemd_where_others_can_connect(host: str) -> None:
    """A socket of systemd at which other machines can connect is refused as well, unless --insecure is given."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        process = passed(listening.fileno(), "1", stderr=-1)
        try:
            said, why = process.communicate(timeout=20)
        finally:
            process.kill()
        assert (process.returncode, said) == (2, "")
        assert why.startswith("composerd: refusing to listen on a socket that systemd passes (http://")
        assert why.count("\n") == 1
        allowed = passed(listening.fileno(), "1", "--insecure")
        assert allowed.stdout is not None
        assert allowed.stdout.readline().startswith("listening on ")
        allowed.terminate()
        assert allowed.wait(20) == 0
        allowed.stdout.close()


@pytest.mark.row("Settings", "--insecure")
async def test_a_start_that_everybody_can_connect_to(serve: Serve, tmp_path: Path) -> None:
    """With --insecure the server listens everywhere, and one warning names the addresses of other machines."""
    options = ("--insecure", "--listen", "0.0.0.0:0", "--listen", f"unix:{tmp_path / 'a.sock'}", "--listen", "[::]:0")
    server = await serve(*options, *FEW)
    told = [(await server.line()).split()[-1] for _ in range(3)]

    async def logged() -> bool:
        return b"without identities" in server.log

    await server.until(logged)
    assert server.log.count(b"WARNING") == 1
    assert f"listening on {told[0]}, {told[2]} without identities, as --insecure says".encode() in server.log


@pytest.mark.parametrize("variable", [True, False])
async def test_insecure_elsewhere(serve: Serve, tmp_path: Path, variable: bool) -> None:
    """--insecure may be set in the environment and in the file, and a warning says that it has no effect here."""
    (tmp_path / "composerd.toml").write_text("[composerd]\ninsecure = true\n")
    options = () if variable else ("--config", str(tmp_path / "composerd.toml"))
    server = await serve(*options, *FEW, environment={"COMPOSERD_INSECURE": "true"} if variable else {})

    async def logged() -> bool:
        return b"a setting has no effect: insecure is for addresses" in server.log

    await server.until(logged)
    assert server.log.count(b"WARNING") == 1


async def test_a_start_that_is_protected(serve: Serve, tmp_path: Path) -> None:
    """A start on loopback addresses and unix sockets, or with client certificates, is warned of by nothing."""
    files = Files(tmp_path)
    files.trust(files.ca)
    certificates = (*files.server_options, "--tls-client-ca", files.path("clients.pem"))
    local = ("--listen", "[::1]:0", "--listen", f"unix:{tmp_path / 'a.sock'}", "--listen", "[::ffff:127.0.0.1]:0")
    plain = await serve(*local, *FEW)
    secure = await serve(*certificates, *FEW, "--listen", "0.0.0.0:0", storage=f"fs:{tmp_path / 'other'}")
    for server, more in ((plain, 3), (secure, 1)):
        for _ in range(more):
            assert (await server.line()).startswith("listening on ")
        server.kill(15)
        await server.exited()
        assert b"WARNING" not in server.log


async def test_tls_alone_protects_nobody(tmp_path: Path) -> None:
    """TLS without client certificates does not say who a client is, so the server does not listen everywhere."""
    ended = await start(*Files(tmp_path).server_options, "--listen", "0.0.0.0:0", "--storage", "memory:")
    assert (ended.code, ended.out) == (2, "")
    assert "refusing to listen on 0.0.0.0:0" in ended.err
