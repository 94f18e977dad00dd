"""The examples for systemd and compose: what they keep from the server, and which exit codes start it again."""

import re
import subprocess
from pathlib import Path

import pytest

from ..live.test_cli import composerd
from ..live.test_examples import COMPOSE, SERVERS, UNITS, compose, service_of
from .conftest import Serve

units = pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.iterdir()))


@units
def test_the_exposure_of_a_unit(systemd_analyze: str, unit: str) -> None:
    """The exposure of the service is 1.2 of 10 or less, as systemd rates it."""
    command = [systemd_analyze, "security", "--offline=true", "--threshold=12", "--no-pager", str(UNITS / unit)]
    rated = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert rated.returncode == 0, rated.stdout + rated.stderr


@units
def test_a_unit_is_understood(systemd_analyze: str, unit: str, tmp_path: Path) -> None:
    """Nothing is wrong in the unit, as far as systemd knows."""
    copy = tmp_path / unit.replace("@.", "@build.")
    copy.write_text(re.sub(r"/usr/bin/composerd\S*", "/bin/true", (UNITS / unit).read_text()))
    command = [systemd_analyze, "verify", "--no-pager", str(copy)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
    assert copy.name not in checked.stderr


@pytest.mark.parametrize("unit", SERVERS)
def test_what_a_unit_leaves_behind(unit: str) -> None:
    """Files are for the service's user only, a crash writes no core dump, and a wrong setting is not tried again."""
    service = service_of(unit)
    assert (service["UMask"], service["LimitCORE"], service["RestartPreventExitStatus"]) == ("0077", "0", "2")
    assert service["Restart"] == "on-failure"
    assert service["RuntimeDirectory"] == "composerd"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--heartbeat-timeout", "soon"], "--heartbeat-timeout"),
        (["--storage", "nosuch:x"], "nosuch"),
        (["--storage", "memory:", "--listen", "nowhere"], "listen"),
        (["--storage", "memory:", "--processes", "2"], "only one process"),
        (["--storage", "memory:", "--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "/nowhere"),
    ],
)
async def test_a_wrong_configuration_is_exit_code_2(options: list[str], said: str) -> None:
    """A server that somebody has to configure first is not started again by systemd."""
    ended = await composerd("serve", "--listen", "127.0.0.1:0", *options)
    assert (ended.code, said in ended.err) == (2, True), ended.err


async def test_what_may_pass_is_exit_code_1(serve: Serve, tmp_path: Path) -> None:
    """If an address or the storage is in use, systemd starts the server again: the one that uses it may be ending."""
    server = await serve()
    address = "{}:{}".format(*server.address)
    for options, said in (
        (["--listen", address, "--storage", "memory:"], "Address already in use"),
        (["--insecure", "--listen", "192.0.2.1:8700", "--storage", "memory:"], "cannot listen on 192.0.2.1:8700"),
        (["--listen", "127.0.0.1:0", "--storage", f"fs:{tmp_path / 'storage'}"], "is in use by another composerd"),
    ):
        ended = await composerd("serve", *options)
        assert (ended.code, said in ended.err) == (1, True), ended.err


def test_ports_of_the_compose_file() -> None:
    """The only published port is published on the machine itself."""
    published = [port for service in compose().values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:8700:8700"]


def test_the_address_that_nginx_passes_on() -> None:
    """The proxy replaces the address that a client claims, and the servers believe the proxy only."""
    text = (COMPOSE / "nginx.conf").read_text()
    assert re.findall(r"proxy_set_header X-Forwarded-For (\S+);", text) == ["$remote_addr"]
    command = compose()["composerd-1"]["command"]
    trusted = command[command.index("--trusted-proxies") + 1]
    assert compose()["proxy"]["networks"]["default"]["ipv4_address"] == trusted
