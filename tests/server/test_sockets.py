"""Sockets that are bound and do not listen yet."""

import os
import socket
import stat
from pathlib import Path
from unittest.mock import ANY

import pytest

from composerd.server.announcing import announce
from composerd.server.sockets import ListenError, close_sockets, describe, duplicate, open_sockets
from composerd.server.unix_sockets import UnixSocketAccess
from composerd.settings import load


def test_an_address_that_is_not_listened_to_yet() -> None:
    """A second server cannot bind a bound address, before the first one listens, and with several processes."""
    access = UnixSocketAccess()
    first = open_sockets(["127.0.0.1:0"], access)
    address = describe(first[0]).removeprefix("http://")
    with pytest.raises(ListenError, match="in use"):
        open_sockets([address], access)
    share = duplicate(first[0])
    for _ in range(2):
        with pytest.raises(ListenError, match="in use"):
            open_sockets([address], access)
        close_sockets([share])
        share = duplicate(first[0])  # of a process that is started again
    close_sockets([share, *first])
    close_sockets(open_sockets([address], access))


@pytest.mark.parametrize("umask", [0, 0o777])
@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
def test_a_unix_socket_has_its_mode_whatever_the_umask(tmp_path: Path, mode: int, umask: int) -> None:
    """The file of a unix socket has the mode and the group of the settings, and the process keeps its umask."""
    group = os.getgroups()[0] if os.getgroups() else os.getegid()
    before = os.umask(umask)
    try:
        path = tmp_path / "socket"
        (listening,) = open_sockets([f"unix:{path}"], UnixSocketAccess(mode, str(group)))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (mode, group)
    close_sockets([listening])
    assert not path.exists()


def test_a_unix_socket_is_bound_only_where_nothing_else_is(tmp_path: Path) -> None:
    """A file, a link and a socket that answers are refused and left alone; a dead socket is replaced."""
    path, other = tmp_path / "socket", tmp_path / "other"
    other.write_text("kept")
    for plant in (lambda: path.write_text("kept"), lambda: path.symlink_to(other)):
        plant()
        with pytest.raises(ListenError, match="not a socket; remove it"):
            open_sockets([f"unix:{path}"], UnixSocketAccess())
        assert path.read_text() == "kept"
        path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    (listening,) = open_sockets([f"unix:{path}"], UnixSocketAccess())
    listening.listen()
    with pytest.raises(ListenError, match="in use"):
        open_sockets([f"unix:{path}"], UnixSocketAccess())
    path.unlink()
    path.write_text("another one")
    close_sockets([listening])
    assert path.read_text() == "another one"


def test_an_unknown_group_of_a_unix_socket(tmp_path: Path) -> None:
    """A group that does not exist stops the start, and no socket is left behind."""
    with pytest.raises(ListenError, match="there is no group 'nobody-has-this', which socket_group names"):
        open_sockets([f"unix:{tmp_path / 'socket'}"], UnixSocketAccess(group="nobody-has-this"))
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize(
    ("address", "options", "why"),
    [
        ("unix:{}/a", {"tls_cert": "/dev/null", "tls_key": "/dev/null"}, "tls_cert is for TCP addresses"),
        ("127.0.0.1:0", {"trusted_proxies": ["unix"]}, "trusted_proxies names unix"),
        ("127.0.0.1:0", {"socket_group": "0"}, "socket_group is for unix sockets"),
        ("127.0.0.1:0", {"socket_identities": "/dev/null"}, "the server listens on none"),
        ("unix:{}/a", {"socket_identities": "/dev/null", "trusted_proxies": ["unix"]}, "takes all of them for proxies"),
        ("127.0.0.1:0", {"insecure": "true"}, "the server listens on none"),
        ("127.0.0.1:0", {"insecure": "true", "tokens": "/dev/null"}, "insecure is for servers without identities"),
        ("unix:{}/a", {"socket_group": "0", "trusted_proxies": ["unix"]}, None),
        ("127.0.0.1:0", {"tls_cert": "/dev/null", "tls_key": "/dev/null"}, None),
    ],
)
def test_settings_without_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, address: str, options: dict[str, str], why: str | None
) -> None:
    """A setting that has no effect on the sockets of the server is logged when the server starts."""
    sockets = open_sockets([address.format(tmp_path)], UnixSocketAccess())
    announce(sockets, load({"storage": "memory:", **options}, {}, None))
    close_sockets(sockets)
    logged = [one.getMessage() for one in caplog.records]
    assert [line.partition(": ")[::2] for line in logged] == ([] if why is None else [("a setting has no effect", ANY)])
    assert why is None or why in logged[0]


def test_sockets_that_are_meant_for_another_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sockets that were passed to a script, which started the server, are not taken, and the log says so."""
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    close_sockets(open_sockets(["127.0.0.1:0"], UnixSocketAccess()))
    assert "the sockets of LISTEN_FDS are not served: they are meant for process 1" in caplog.text
