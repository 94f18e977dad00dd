"""Messages to a service manager, and lines for its journal."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composerd.server.logs import TextFormatter
from composerd_protocol.journald import JournalFormatter, reads_stderr, with_priority
from composerd_protocol.service_manager import SEND_WITHIN, ServiceManager


@pytest.fixture(params=["path", "abstract"])
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """Return a datagram socket with a path, or with an abstract name."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0composerd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name)
        bound.settimeout(10)
        yield bound


def address_of(inbox: socket.socket) -> str:
    """Return the value of `NOTIFY_SOCKET` for a socket."""
    name = inbox.getsockname()
    return name if isinstance(name, str) else "@" + name[1:].decode()


def test_messages_are_those_of_sd_notify(inbox: socket.socket) -> None:
    """Each message is one datagram of assignments, and a line feed in a status does not begin another one."""
    manager = ServiceManager.of({"NOTIFY_SOCKET": address_of(inbox)})
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.ready("serving\nWATCHDOG=trigger")
    manager.reloading()
    manager.stopping("stopping", 12.5)
    manager.alive()
    assert inbox.recv(4096) == b"READY=1\nSTATUS=serving WATCHDOG=trigger"
    reloading, _, stamp = inbox.recv(4096).partition(b"\nMONOTONIC_USEC=")
    assert reloading == b"RELOADING=1"
    assert before <= int(stamp) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert inbox.recv(4096) == b"STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=12500000"
    assert inbox.recv(4096) == b"WATCHDOG=1"
    manager.close()


def test_commands_do_not_get_the_variables() -> None:
    """The variables of the service manager are taken out of the environment, and all others stay."""
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    manager = ServiceManager.of(environ)
    assert environ == {"HOME": "/"}
    assert manager.sign_of_life_every == 1


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": ""},
        {},
    ],
)
def test_a_watchdog_for_nobody(variables: dict[str, str]) -> None:
    """No sign of life is due if the service manager wants none, or one of another process."""
    assert ServiceManager.of({"NOTIFY_SOCKET": "@x", **variables}).sign_of_life_every is None


def test_a_service_manager_that_does_not_listen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A message that nobody gets is logged once, until one was sent again, and never raises an error."""
    path = str(tmp_path / "notify")
    manager = ServiceManager.of({"NOTIFY_SOCKET": path})
    for _ in range(3):
        manager.alive()
    assert [one.getMessage() for one in caplog.records] == [
        "cannot send a message to the service manager: No such file or directory"
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(path)
        manager.alive()
        assert inbox.recv(100) == b"WATCHDOG=1"
    manager.alive()
    assert len(caplog.records) == 2
    manager.close()
    ServiceManager.of({}).ready("sent nowhere")
    assert len(caplog.records) == 2


def test_a_service_manager_that_reads_nothing(inbox: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    """A full queue of messages delays a server by a moment only."""
    manager = ServiceManager.of({"NOTIFY_SOCKET": address_of(inbox)})
    sent, began = 0, time.monotonic()
    while not caplog.records:
        manager.alive()
        sent += 1
        assert sent < 100_000
    assert time.monotonic() - began < SEND_WITHIN + 5
    assert "service manager" in caplog.text
    manager.close()


def test_each_line_of_a_traceback_has_its_priority() -> None:
    """The journal splits what it reads into lines, so that each needs its own priority."""
    error = ValueError("two\nlines")
    record = logging.LogRecord("composerd", logging.ERROR, __file__, 1, "failed", (), (type(error), error, None))
    lines = JournalFormatter(TextFormatter()).format(record).split("\n")
    assert lines[0].endswith("failed")
    assert len(lines) >= 3
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.parametrize(("level", "priority"), [(10, 7), (20, 6), (25, 6), (30, 4), (40, 3), (50, 2)])
def test_priorities(level: int, priority: int) -> None:
    """Levels become the priorities of syslog."""
    assert with_priority("a\nb", level) == f"<{priority}>a\n<{priority}>b"


def test_a_stream_that_is_not_the_journal() -> None:
    """Stderr counts as the journal's only if it is the very stream that systemd has opened."""
    found = os.fstat(2)
    assert reads_stderr({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
    for other in ("", f"{found.st_dev}:{found.st_ino + 1}", "0:0", "nonsense"):
        assert not reads_stderr({"JOURNAL_STREAM": other})
    assert not reads_stderr({})
