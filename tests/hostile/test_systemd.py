"""The units of docs/examples/systemd under a real systemd: what they let a server and a worker do, and what not."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..live.conftest import COMPOSER
from ..live.test_examples import UNITS
from .systemd import Systemd

SERVER = "composerd.service"
WORKER = "composerd-worker@build.service"
BACKUP = "composerd-backup.service"
URL = "http://127.0.0.1:8700"

COMMAND = """#!/bin/sh
umask
nice -n 5 sh -c 'echo $?'
touch /usr/local/libexec/composerd/build 2> /dev/null || echo read-only
unshare --user true 2> /dev/null || echo no namespaces
ls /home /root 2> /dev/null | wc -l
tr '\\0' '\\n' < /proc/self/environ | grep -c NOTIFY_SOCKET
cat /proc/[0-9]*/environ 2> /dev/null | grep -c COMPOSERD_TOKEN=
grep -E '^(NoNewPrivs|CapBnd|Seccomp):' /proc/self/status | tr -d '\\t'
echo built > $COMPOSERD_JOB_ARTIFACTS/image
"""


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """Run systemd with the units of the examples."""
    systemd = Systemd(tmp_path_factory.mktemp("systemd"))
    try:
        for unit in UNITS.iterdir():
            systemd.add(unit.name, unit.read_text())
        systemd.add("composerd.socket", "[Socket]\nListenStream=127.0.0.1:8701\n")
        make_tokens(systemd)
        yield systemd
    finally:
        systemd.close()


def make_tokens(systemd: Systemd) -> None:
    """Make a token as the server's unit says, and one for the worker. There is no bus for `systemd-run`."""
    text = (UNITS / SERVER).read_text()
    found = re.search(r"(?m)^#     systemd-run (.*) \\\n# +/usr/bin/(composerd .*) --name ann --role admin >", text)
    assert found is not None
    service = "[Service]\nType=oneshot\n" + "\n".join(re.findall(r"-p (\S+)", found[1]))
    systemd.run("mkdir", "/run/tokens")
    for name, role in (("ann", "admin"), ("worker", "worker")):
        command = f"ExecStart=/usr/bin/{found[2]} --name {name} --role {role}"
        output = f"StandardOutput=file:/run/tokens/{name}\nStandardError=journal\n"
        systemd.add("token.service", f"{service}\n{command}\n{output}")
        systemd.systemctl("start", "token.service")
    systemd.run("sh", "-c", "echo Authorization: Bearer $(cat /run/tokens/ann) > /run/tokens/header")
    systemd.run("sh", "-c", "echo COMPOSERD_TOKEN=$(cat /run/tokens/worker) > /run/tokens/worker.env")
    systemd.add(f"{WORKER}.d/token.conf", "[Service]\nEnvironmentFile=/run/tokens/worker.env\n")


@pytest.fixture
def server(systemd: Systemd) -> Iterator[Systemd]:
    """Start the server's unit, and stop it at the end."""
    systemd.systemctl("start", SERVER)
    yield systemd
    systemd.systemctl("stop", WORKER, SERVER)


def fetch(systemd: Systemd, *arguments: str) -> str:
    """Send a request with curl from where the server is, and return the body."""
    headers = ("-H", "Content-Type: application/json", "-H", "@/run/tokens/header")
    return systemd.run("curl", "-sSf", *headers, *arguments)


def request(systemd: Systemd, *arguments: str) -> Any:
    """Send a request as `fetch` does, and return the decoded body."""
    return json.loads(fetch(systemd, *arguments))


def install(systemd: Systemd, command: str) -> None:
    """Install the command of the worker."""
    path = "/usr/local/libexec/composerd/build"
    systemd.run("sh", "-c", f"mkdir -p {Path(path).parent}; cat > {path} <<'END'\n{command}\nEND\nchmod 755 {path}")


def until(holds: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_has_started_serves(server: Systemd) -> None:
    """When systemctl start returns, requests are answered, and the status says where; a reload ends too."""
    assert server.run("curl", "-sSf", f"{URL}/readyz") == "ready\n"
    assert server.property(SERVER, "StatusText") == f"serving on {URL}"
    server.systemctl("reload", SERVER)
    assert server.property(SERVER, "ActiveState") == "active"
    assert server.property(SERVER, "StatusText") == f"serving on {URL}"


def test_a_server_that_stands_still_is_restarted(systemd: Systemd) -> None:
    """The watchdog kills a server that is stopped, and the next one has its jobs."""
    systemd.add(f"{SERVER}.d/short.conf", "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
    systemd.systemctl("start", SERVER)
    job = request(systemd, "-d", '{"type":"kept"}', f"{URL}{COMPOSER}/jobs")
    for _ in range(4):
        before = systemd.property(SERVER, "WatchdogTimestampMonotonic")
        until(lambda: systemd.property(SERVER, "WatchdogTimestampMonotonic") != before)  # noqa: B023  # ends before
    assert systemd.property(SERVER, "NRestarts") == "0"
    systemd.systemctl("kill", "--signal=STOP", SERVER)
    until(lambda: systemd.property(SERVER, "NRestarts") == "1")
    until(lambda: systemd.property(SERVER, "ActiveState") == "active")
    assert request(systemd, f"{URL}{job['href']}")["state"] == "ready"
    systemd.systemctl("stop", SERVER)
    systemd.add(f"{SERVER}.d/short.conf", "")


def test_a_server_on_a_socket_and_an_address(systemd: Systemd) -> None:
    """A server serves the socket of its unit, and the address of its command line besides."""
    systemd.systemctl("start", "composerd.socket")
    assert systemd.run("curl", "-sSf", "http://127.0.0.1:8701/readyz") == "ready\n"  # starts the server
    assert systemd.run("curl", "-sSf", f"{URL}/readyz") == "ready\n"
    systemd.systemctl("stop", "composerd.socket", SERVER)


def test_a_group_of_a_socket_that_the_unit_does_not_have(systemd: Systemd) -> None:
    """With PrivateUsers= only the group of the unit can be that of a socket, and an error says how to set it."""
    listen = "[Service]\nPrivateUsers=yes\nEnvironment=COMPOSERD_SOCKET_GROUP=daemon\n"
    override = "ExecStart=\nExecStart=/usr/bin/composerd serve --storage memory: --listen unix:/run/composerd/socket\n"
    systemd.add(f"{SERVER}.d/group.conf", listen + override)
    with pytest.raises(RuntimeError):
        systemd.systemctl("start", SERVER)
    said = systemd.run("journalctl", "-o", "cat", "-p", "err", "-u", SERVER)
    assert "with PrivateUsers=, name it with Group= too" in said
    systemd.add(f"{SERVER}.d/group.conf", listen + "Group=daemon\n" + override)
    systemd.systemctl("start", SERVER)
    assert systemd.run("stat", "-c", "%G %a", "/run/composerd/socket") == "daemon 660\n"
    systemd.systemctl("stop", SERVER)
    systemd.add(f"{SERVER}.d/group.conf", "")


def test_a_backup_unit(server: Systemd) -> None:
    """The unit for backups makes and checks one beside the server, as its user; a backup that fails fails the unit."""
    request(server, f"{URL}{COMPOSER}/jobs", "-d", '{"type": "build"}')
    for count in (1, 2):
        server.systemctl("start", BACKUP)
        lines = server.run("journalctl", "--no-pager", "-o", "cat", "-u", BACKUP)
        assert lines.count(" files in /var/lib/composerd-backup/") == count
        assert lines.count("intact\tyes") == count
        server.systemctl("stop", SERVER)
        # A backup is named after the second in which it begins.
        named = "/var/lib/composerd-backup/$(date +%Y-%m-%d-%H%M%S)"
        server.run("sh", "-c", f"while [ -e {named} ]; do sleep 0.05; done")
    server.run("sh", "-c", "echo damaged > /var/lib/composerd/journal/00000001.log")
    with pytest.raises(RuntimeError, match="failed"):
        server.systemctl("start", BACKUP)
    server.run("sh", "-c", "rm -r /var/lib/private/composerd /var/lib/private/composerd-backup")
    server.systemctl("reset-failed")


def test_priorities_in_the_journal(server: Systemd) -> None:
    """The journal knows which lines are warnings, and shows them without the priority in front."""
    since = server.run("date", "+%s").strip()
    server.run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8700; printf 'nonsense\\r\\n\\r\\n' >&3; cat <&3 > /dev/null")

    def warnings() -> list[str]:
        output = server.run("journalctl", "-o", "json", "-p", "warning", "-u", SERVER, f"--since=@{since}")
        return [json.loads(line)["MESSAGE"] for line in output.splitlines()]

    until(lambda: any("malformed HTTP request" in line for line in warnings()))
    assert all(line.startswith("20") for line in warnings())


def test_a_command_of_a_worker(server: Systemd) -> None:
    """A worker's command runs with the restrictions of the unit and sees no token, and its files arrive."""
    install(server, COMMAND)
    server.systemctl("start", WORKER)
    job = request(server, "-d", '{"type":"build"}', f"{URL}{COMPOSER}/jobs")
    ended = request(server, f"{URL}{job['href']}?wait=20s")
    assert ended["state"] == "finished", ended
    said = ended["result"]["stdout"].splitlines()
    assert said[:7] == ["0077", "0", "read-only", "no namespaces", "0", "0", "0"]
    assert said[7:] == ["CapBnd:0000000000000000", "NoNewPrivs:1", "Seccomp:2"]
    assert fetch(server, f"{URL}{job['href']}/artifacts/image") == "built\n"


def test_a_worker_that_is_stopped(server: Systemd) -> None:
    """A worker gets the time that it asks for, releases the job that still runs then, and leaves no process."""
    install(server, "#!/bin/sh\nsleep 300 &\nsleep 300\n")
    start = UNITS.joinpath("composerd-worker@.service").read_text().partition("ExecStart=")[2].partition("\n")[0]
    start = start.replace("--stop-after 9m", "--stop-after 3s")
    # Without more time, systemd would kill it after a second.
    server.add(f"{WORKER}.d/short.conf", f"[Service]\nExecStart=\nExecStart={start}\nTimeoutStopSec=1s\n")
    server.systemctl("start", WORKER)
    assert server.property(WORKER, "StatusText") == f"requesting jobs of type build from {URL}"
    job = request(server, "-d", '{"type":"build"}', f"{URL}{COMPOSER}/jobs")
    until(lambda: request(server, f"{URL}{job['href']}")["state"] == "running")
    server.systemctl("stop", WORKER)
    assert server.property(WORKER, "Result") == "success"
    released = request(server, f"{URL}{job['href']}")
    assert (released["state"], released["retries"]) == ("ready", 0)
    server.add(f"{WORKER}.d/short.conf", "")
