"""The examples in docs/examples: servers start with their command lines, and work."""

import asyncio
import configparser
import contextlib
import io
import re
import shlex
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from ..throwaway import Throwaway
from .conftest import COMPOSER, WORKER, Serve, Server, until_waiting
from .test_cli import composerd, start

TOP = Path(__file__).parents[2]
UNITS = TOP / "docs" / "examples" / "systemd"
SERVERS = ("composerd-shared.service", "composerd.service")
COMPOSE = TOP / "docs" / "examples" / "compose"


def service_of(unit: str) -> configparser.SectionProxy:
    """Return the section [Service] of a unit; of an option that is repeated, the last one."""
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",), strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]  # option names have capitals
    parser.read(UNITS / unit)
    return parser["Service"]


@pytest.mark.parametrize("unit", SERVERS)
async def test_a_unit_serves(unit: str, tmp_path: Path, newest_postgres: Throwaway) -> None:
    """The command line of a unit starts a server that accepts jobs and stops on SIGTERM."""
    service = service_of(unit)
    line = service["ExecStart"]
    for directory in ("/var/lib/", "/srv/"):
        line = line.replace(directory, f"{tmp_path}/")
    program, *arguments = shlex.split(line)
    assert Path(program).name == "composerd"
    environment = {"COMPOSERD_STORAGE": newest_postgres.fresh()} if "storage.env" in service["EnvironmentFile"] else {}
    await check_serving(arguments, tmp_path, arguments[arguments.index("--tokens") + 1], **environment)


async def check_serving(arguments: list[str], scratch: Path, tokens: str, **environment: str) -> None:
    """Start a server with these arguments on a free port, submit a job to it with a token, and stop it with SIGTERM."""
    arguments[arguments.index("--listen") + 1] = "127.0.0.1:0"
    (scratch / "composerd").mkdir(exist_ok=True)
    Path(tokens).parent.mkdir(exist_ok=True)
    made = await composerd("token", "create", "--name", "ann", "--role", "admin", "--tokens", tokens)
    assert made.code == 0, made.err
    process = await start(*arguments, server=None, **environment)
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().split()[-1]
        assert (await composerd("jobs", "--server", url)).code != 0
        token: dict[str, Any] = {"COMPOSERD_TOKEN": made.out.strip()}
        submitted = await composerd("submit", "build", "--server", url, **token)
        assert submitted.code == 0, submitted.err
        shown = await composerd("status", submitted.out.strip(), "--server", url, **token)
        assert shown.code == 0, shown.err
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def test_limits_of_the_units() -> None:
    """Units allow more time for stopping, and more open files, than a server needs with its defaults."""
    for unit in SERVERS:
        assert int(service_of(unit)["TimeoutStopSec"]) > 5
        assert int(service_of(unit)["LimitNOFILE"]) > 20_000


def compose() -> dict[str, Any]:
    """Return the services of the compose file."""
    services: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    return services


async def test_a_service_serves(tmp_path: Path, newest_postgres: Throwaway) -> None:
    """The command and the environment of the compose file start a server, and the files of the image exist."""
    service = compose()["composerd-1"]
    assert service == compose()["composerd-2"]
    assert list(service["environment"]) == ["COMPOSERD_STORAGE", "COMPOSERD_TOKENS"]
    tokens = service["environment"]["COMPOSERD_TOKENS"]
    assert f"tokens:{Path(tokens).parent}" in service["volumes"]
    tokens = tokens.replace("/srv/", f"{tmp_path}/")
    command = [part.replace("/srv/", f"{tmp_path}/") for part in service["command"]]
    storage = newest_postgres.fresh()
    await check_serving(command, tmp_path, tokens, COMPOSERD_STORAGE=storage, COMPOSERD_TOKENS=tokens)
    image = (COMPOSE / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["composerd"]' in image
    for sources in re.findall(r"^COPY (.+) \S+$", image, re.MULTILINE):
        assert all((TOP / source).exists() for source in sources.split())


def test_references_between_services() -> None:
    """Names, users, files and ports that services of the compose file refer to exist."""
    services = compose()
    storage = services["composerd-1"]["environment"]["COMPOSERD_STORAGE"]
    assert re.fullmatch(r"postgresql://composerd:\$\{POSTGRES_PASSWORD:\?\}@database/composerd", storage)
    assert services["database"]["environment"]["POSTGRES_USER"] == "composerd"
    proxied = re.findall(r"server (\S+):8700 ", (COMPOSE / "nginx.conf").read_text())
    assert proxied[:2] == proxied[2:]  # each is there again as its own backup
    assert (
        proxied[:2] == services["proxy"]["depends_on"] == [name for name in services if name.startswith("composerd-")]
    )
    assert services["proxy"]["volumes"] == ["./nginx.conf:/etc/nginx/nginx.conf:ro"]
    build = services["composerd-1"]["build"]
    assert (COMPOSE / build["context"]).resolve() == TOP
    assert (TOP / build["dockerfile"]).is_file()


@contextlib.asynccontextmanager
async def proxied(nginx: str, scratch: Path, port: int, servers: list[Server]) -> AsyncIterator[str]:
    """Run nginx with the example's configuration in front of the test's servers, and yield its URL."""
    text = (COMPOSE / "nginx.conf").read_text().replace("listen 8700", f"listen 127.0.0.1:{port}")
    for number, server in enumerate(servers, 1):
        text = text.replace(f"composerd-{number}:8700", "{}:{}".format(*server.address))
    temporary_paths = "".join(
        f"{kind}_temp_path {scratch}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {\n", f"http {{\n{temporary_paths}", 1).replace("worker_rlimit_nofile 65536;\n", "")
    text = text.replace("worker_connections 32768;", "worker_connections 1024;")
    configuration = scratch / "nginx.conf"
    configuration.write_text(text)
    command = [nginx, "-p", str(scratch), "-e", "stderr", "-c", str(configuration)]
    process = await asyncio.create_subprocess_exec(*command, "-g", f"daemon off; pid {scratch}/pid;")
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_behind_nginx(
    nginx: str, serve: Serve, newest_postgres: Throwaway, tmp_path: Path, unused_tcp_port: int
) -> None:
    """Behind nginx requests wait, canceled waits end, files pass unchanged, and a killed server is avoided."""
    url, files = newest_postgres.fresh(), str(tmp_path / "files")
    servers = [await serve("--artifacts", files, storage=url) for _ in range(2)]
    data = bytes(range(256)) * 20_000
    wanted = {"types": ["build"], "arch": "x86_64"}
    async with proxied(nginx, tmp_path, unused_tcp_port, servers) as proxy, aiohttp.ClientSession(proxy) as http:
        waiting = asyncio.create_task(http.post(f"{WORKER}/jobs", json=wanted))
        await until_waiting_at(servers, 1)
        async with http.post(f"{COMPOSER}/jobs", json={"type": "build"}) as answer:
            job = await answer.json()
        attempt = await (await waiting).json()
        assert attempt["id"] == job["id"]
        async with http.put(f"{attempt['artifact_location']}a%20%26%2B", data=io.BytesIO(data)) as answer:
            assert answer.status == 200
        async with http.patch(attempt["location"], json={"result": 1}) as answer:
            assert answer.status == 200
        async with http.get(f"{COMPOSER}/jobs/{job['id']}/artifacts") as answer:
            (item,) = (await answer.json())["items"]
        assert item["name"] == "a &+"
        async with http.get(item["href"]) as answer:
            assert await answer.read() == data
        waiting = asyncio.create_task(http.post(f"{WORKER}/jobs", json=wanted))
        await until_waiting_at(servers, 1)
        waiting.cancel()
        await until_waiting_at(servers, 0)
        servers[0].kill()
        await servers[0].exited()
        for _ in range(10):
            async with http.post(f"{COMPOSER}/jobs", json={"type": "build"}) as answer:
                assert answer.status == 201
        await until_waiting(servers[1], 0)


async def test_restarts_behind_nginx(nginx: str, serve: Serve, tmp_path: Path, unused_tcp_port: int) -> None:
    """Behind nginx, servers are reached once one is back after both had stopped, and one that stops is avoided."""
    servers = [await serve(storage="memory:") for _ in range(2)]
    async with proxied(nginx, tmp_path, unused_tcp_port, servers) as proxy, aiohttp.ClientSession(proxy) as http:

        async def status() -> int:
            async with http.get("/healthz") as answer:
                return answer.status

        for server in servers:
            server.kill(signal.SIGTERM)
        for server in servers:
            await server.exited()
        assert [await status() for _ in range(4)] == [502] * 4
        await servers[1].start()
        assert [await status() for _ in range(4)] == [200] * 4
        await servers[0].start()
        servers[1].kill(signal.SIGTERM)
        await servers[1].exited()
        assert [await status() for _ in range(4)] == [200] * 4


async def test_clients_behind_nginx(nginx: str, serve: Serve, tmp_path: Path, unused_tcp_port: int) -> None:
    """Behind nginx each client has its share, whatever it says about itself, if the server trusts the proxy."""
    (option, address) = compose()["composerd-1"]["command"][-2:]
    assert address == compose()["proxy"]["networks"]["default"]["ipv4_address"]
    server = await serve(option, "127.0.0.1", "--max-connections", "8", storage="memory:")

    def client(address: str, claimed: str) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, local_addr=(address, 0))
        return aiohttp.ClientSession(proxy, connector=connector, headers={"X-Forwarded-For": claimed})

    async with (
        proxied(nginx, tmp_path, unused_tcp_port, [server, server]) as proxy,
        client("127.0.9.1", "192.0.2.1") as greedy,
        client("127.0.9.2", "127.0.9.1") as quiet,
    ):
        wanted = {"types": ["build"], "arch": "x86_64"}

        async def ask() -> None:
            while (await greedy.post(f"{WORKER}/jobs", json=wanted)).status == 503:
                pass  # a request for metrics was in progress, and counted

        waits = [asyncio.create_task(ask()) for _ in range(4)]
        await until_waiting(server, 4)
        for http, status in ((greedy, 503), (quiet, 200)):
            async with http.get(f"{COMPOSER}/jobs") as answer:
                assert answer.status == status
        for wait in waits:
            wait.cancel()


async def until_waiting_at(servers: list[Server], count: int) -> None:
    """Wait until this number of requests wait at all servers together."""

    async def holds() -> bool:
        texts = [(await server.request("GET", "/metrics"))[1].decode() for server in servers]
        return sum(float(re.findall(r"^composerd_waits (\S+)$", text, re.MULTILINE)[0]) for text in texts) == count

    await servers[0].until(holds)
