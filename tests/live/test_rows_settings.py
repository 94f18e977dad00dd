"""Settings of `composerd serve` and their effect on a live server, a test for each row; bounds: `test_rows_bounds`."""

import asyncio
import grp
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from composerd.settings import SETTINGS

from ..rows import table_of
from ..throwaway import Throwaway
from .conftest import COMPOSER, HALF_SENT, JSON, NOBODY, WORKER, Serve, error, send, until_waiting
from .test_tls import Files, answers

row = pytest.mark.row
TABLE = "Settings"

ASK = {"types": ["build"], "arch": "x86_64"}


@row(TABLE, "--listen")
async def test_listen(serve: Serve, tmp_path: Path) -> None:
    """The server listens on several addresses, also IPv6 and a unix socket, and prints each."""
    server = await serve("--listen", "[::1]:0", "--listen", f"unix:{tmp_path / 'a.sock'}")
    told = [(await server.line()).split()[-1] for _ in range(2)]
    assert told[1] == f"http+unix:{tmp_path / 'a.sock'}"
    assert (await send(server, "GET", "/healthz"))[0] == 200
    async with aiohttp.ClientSession() as http, http.get(f"{told[0]}/healthz") as answer:
        assert answer.status == 200
    connector = aiohttp.UnixConnector(str(tmp_path / "a.sock"))
    async with aiohttp.ClientSession(connector=connector) as http, http.get("http://x/healthz") as answer:
        assert answer.status == 200


def passed(descriptor: int, count: str, *options: str, stderr: int | None = None) -> "subprocess.Popen[str]":
    """Start a server to which systemd passes a descriptor as number 3."""
    arguments = ["serve", "--storage", "memory:", *options]
    script = (
        f"import os; os.dup2({descriptor}, 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS={count!r}); "
        f"from composerd.cli.main import main; main({arguments!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], pass_fds=[descriptor], stdout=subprocess.PIPE, stderr=stderr, text=True
    )


@row(TABLE, "--listen")
@pytest.mark.parametrize("unix", [False, True])
def test_listen_to_a_socket_of_systemd(tmp_path: Path, unix: bool) -> None:
    """A socket passed by systemd replaces the default address, and its file stays for the next start."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) if unix else socket.create_server(("127.0.0.1", 0)) as listening:
        if unix:
            listening.bind(str(path))
            listening.listen()
        said = f"http+unix:{path}" if unix else f"http://127.0.0.1:{listening.getsockname()[1]}"
        process = passed(listening.fileno(), "1")
        assert process.stdout is not None
        assert process.stdout.readline() == f"listening on {said}\n"
        if not unix:
            assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()
        assert path.exists() is unix


@row(TABLE, "--listen")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_listen_to_a_socket_of_systemd_and_to_others(
    tmp_path: Path, processes: str, newest_postgres: Throwaway
) -> None:
    """A socket passed by systemd and the addresses that are set are all served, one that is both once."""
    path = tmp_path / "a.sock"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        same = f"127.0.0.1:{listening.getsockname()[1]}"
        options = ("--storage", newest_postgres.fresh(), "--processes", processes)
        addresses = (f"unix:{path}", same, "127.0.0.1:0")
        process = passed(listening.fileno(), "1", *options, *(f"--listen={one}" for one in addresses))
        assert process.stdout is not None
        told = [process.stdout.readline().split()[-1] for _ in range(3)]
        assert told[:2] == [f"http://{same}", f"http+unix:{path}"]
        for url in (told[0], told[2]):
            assert urllib.request.urlopen(f"{url}/healthz").read() == b"alive\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 200")
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout.read() == ""
        process.stdout.close()


@row(TABLE, "--listen")
@pytest.mark.parametrize("count", ["some", "", "1", "2"])
def test_listen_to_what_is_no_socket(tmp_path: Path, count: str) -> None:
    """A passed descriptor that is not a listening socket stops the start with one sentence."""
    with (tmp_path / "file").open("w") as file:
        process = passed(file.fileno(), count, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert said.startswith("composerd: cannot listen on ")
    assert "LISTEN_FDS" in said
    assert said.count("\n") == 1


@row(TABLE, "--storage")
async def test_storage(serve: Serve, tmp_path: Path) -> None:
    """The journal is in the directory that the URL names."""
    await serve(storage=f"fs:{tmp_path / 'here'}")
    assert (tmp_path / "here" / "journal" / "00000001.log").exists()


@row(TABLE, "--storage")
def test_default_storage(tmp_path: Path) -> None:
    """By default jobs are stored in systemd's state directory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "composerd.cli.main", "serve", "--listen", "127.0.0.1:0"],
        env={"PATH": os.environ["PATH"], "STATE_DIRECTORY": f"{tmp_path / 'state'}:/nowhere"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("listening on http://127.0.0.1:")
    assert (tmp_path / "state" / "journal").is_dir()
    process.terminate()
    process.wait(20)
    process.stdout.close()


@row(TABLE, "--artifacts")
async def test_artifacts(serve: Serve, tmp_path: Path) -> None:
    """Artifacts are stored in the directory that is set."""
    server = await serve("--artifacts", str(tmp_path / "files"), storage="memory:")
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    assert (await send(server, "PUT", attempt["artifact_location"] + "a", b"x"))[0] == 200
    assert [one.read_bytes() for one in (tmp_path / "files" / job["id"]).rglob("*") if one.is_file()] == [b"x"]


@row(TABLE, "--worker-base-path")
async def test_worker_base_path(serve: Serve) -> None:
    """The worker API has this base path only, and its answers contain it."""
    server = await serve("--worker-base-path", "/workers")
    await server.submit()
    _, attempt = await server.request("POST", "/workers/jobs", {"types": ["build"], "arch": "x"})
    assert attempt["location"].startswith("/workers/jobs/")
    assert (await server.request("GET", attempt["location"]))[0] == 200
    assert (await server.request("GET", f"{WORKER}/status"))[0] == 404


@row(TABLE, "--request-job-timeout")
async def test_request_job_timeout(serve: Serve) -> None:
    """A request for a job waits this long and is then answered with 204."""
    server = await serve("--request-job-timeout", "200ms")
    began = time.monotonic()
    status, _ = await server.request("POST", f"{WORKER}/jobs", {"types": ["build"], "arch": "x"})
    assert status == 204
    assert 0.2 <= time.monotonic() - began < 20


@row(TABLE, "--proxied-wait")
@pytest.mark.parametrize(
    "header", ["Via: 1.1 proxy", "Forwarded: for=192.0.2.1", "X-Forwarded-For: x", "X-Forwarded-Proto: https"]
)
async def test_proxied_wait(serve: Serve, header: str) -> None:
    """A request that came through a proxy waits this long, unless it says how long; a direct one does not end."""
    server = await serve("--proxied-wait", "200ms")
    name, _, value = header.partition(": ")
    began = time.monotonic()
    assert (await server.request("POST", f"{WORKER}/jobs", ASK, headers={name: value}))[0] == 204
    assert 0.2 <= time.monotonic() - began < 20
    asking = [
        asyncio.create_task(server.request("POST", f"{WORKER}/jobs", ASK)),
        asyncio.create_task(server.request("POST", f"{WORKER}/jobs?wait=1m", ASK, headers={name: value})),
    ]
    done, _ = await asyncio.wait(asking, timeout=0.6)
    assert not done
    for _ in asking:
        await server.submit()
    assert [status for status, _ in await asyncio.gather(*asking)] == [201, 201]


@row(TABLE, "--max-wait")
async def test_max_wait(serve: Serve) -> None:
    """A longer wait of a worker or of a submitter is shortened to this."""
    server = await serve("--max-wait", "200ms")
    job = await server.submit("other")
    for method, path, body in (("POST", f"{WORKER}/jobs", ASK), ("GET", f"{COMPOSER}/jobs/{job['id']}", None)):
        began = time.monotonic()
        assert (await server.request(method, f"{path}?wait=10m", body))[0] in (200, 204)
        assert 0.2 <= time.monotonic() - began < 20


@row(TABLE, "--base-path")
async def test_base_path(serve: Serve) -> None:
    """Everything is served below this path and nowhere else, and the answers contain it."""
    server = await serve("--base-path", "/ci")
    for path in (
        "/ci",
        "/ci/",
        "/ci/healthz",
        "/ci/readyz",
        "/ci/metrics",
        f"/ci{WORKER}/status",
        f"/ci{COMPOSER}/status",
    ):
        assert (await server.request("GET", path))[0] == 200, path
        assert (await server.request("GET", path.removeprefix("/ci") or "/"))[0] == 404, path
    status, job = await server.request("POST", f"/ci{COMPOSER}/jobs", {"type": "build"})
    assert (status, job["href"]) == (201, f"/ci{COMPOSER}/jobs/{job['id']}")
    _, attempt = await server.request("POST", f"/ci{WORKER}/jobs", ASK)
    assert attempt["location"].startswith(f"/ci{WORKER}/jobs/")
    assert (await server.request("GET", attempt["location"]))[0] == 200
    _, refused = await server.request("GET", f"/ci{COMPOSER}/jobs/none")
    assert refused["href"] == f"/ci{COMPOSER}/errors/32"
    status, beside = await server.request("GET", f"{WORKER}/jobs/none")
    assert status == 404
    assert f"the APIs are below /ci{WORKER} and /ci{COMPOSER}" in beside["details"]["problem"]


@row(TABLE, "--heartbeat-timeout")
async def test_heartbeat_timeout(serve: Serve) -> None:
    """A job is taken back from a worker that has been silent for this long, as the answer with the job has said."""
    server = await serve("--heartbeat-timeout", "300ms", "--sweep-interval", "50ms")
    job = await server.submit()
    began = time.monotonic()
    first = await server.ask()
    assert first is not None
    assert first["lease"] == "0.3s"
    again = await server.ask()
    assert again is not None
    assert again["id"] == job["id"]
    assert 0.3 < time.monotonic() - began < 20


@row(TABLE, "--handover-timeout")
async def test_handover_timeout(serve: Serve) -> None:
    """A job that is not confirmed in this time is requeued without counting a retry."""
    server = await serve("--handover-timeout", "300ms", "--sweep-interval", "50ms")
    job = await server.submit()
    began = time.monotonic()
    assert await server.ask(confirm=True)
    again = await server.ask()
    assert again is not None
    assert (again["id"], (await server.job(job["id"]))["retries"]) == (job["id"], 0)
    assert 0.3 < time.monotonic() - began < 9  # the default is 10 s


@row(TABLE, "--sweep-interval")
async def test_sweep_interval(serve: Serve) -> None:
    """Jobs whose retention is over are removed by sweeps that are this far apart."""
    server = await serve("--sweep-interval", "100ms", "--retention", "1ms")
    began = time.monotonic()
    for _ in range(3):
        job = await server.submit()
        await server.request("POST", f"{job['href']}/cancel")

        async def gone(href: str = job["href"]) -> bool:
            return (await server.request("GET", href))[0] == 404

        await server.until(gone)
    assert time.monotonic() - began < 9  # two intervals at least are between the three; the default is 5 s


@row(TABLE, "--max-retries")
async def test_max_retries(serve: Serve) -> None:
    """A job without its own number is tried again after this many lost workers."""
    server = await serve("--max-retries", "0", "--heartbeat-timeout", "200ms", "--sweep-interval", "50ms")
    job = await server.submit()
    await server.ask_and_confirm()
    ended = await server.job(job["id"], wait="10s")
    assert "more than 0 times" in ended["result"]["job_error"]["reason"]


@row(TABLE, "--worker-timeout")
async def test_worker_timeout(serve: Serve) -> None:
    """A worker that has been silent for this long is not listed."""
    server = await serve("--worker-timeout", "2s")
    await server.request("POST", f"{WORKER}/workers", {"arch": "x86_64"})
    assert len((await server.request("GET", f"{COMPOSER}/workers"))[1]["items"]) == 1

    async def dropped() -> bool:
        return not (await server.request("GET", f"{COMPOSER}/workers"))[1]["items"]

    await server.until(dropped)


@row(TABLE, "--undequeueable-types")
async def test_undequeueable_types(serve: Serve) -> None:
    """Workers may not request these types, which replace the default."""
    server = await serve("--undequeueable-types", "a", "--undequeueable-types", "b")
    for type, number in (("a", 15), ("b", 15)):
        body = json.dumps({"types": [type], "arch": "x"}).encode()
        assert (await error(server, "POST", f"{WORKER}/jobs", body, **JSON))[1] == number
    assert await server.ask("manifest-id-only", wait="10ms") is None


@row(TABLE, "--tls-cert")
@row(TABLE, "--tls-key")
async def test_tls_cert_and_key(serve: Serve, tmp_path: Path) -> None:
    """The server speaks TLS with this certificate and key."""
    files = Files(tmp_path)
    server = await serve(*files.server_options)
    assert server.url.startswith("https://")
    assert await answers(server, ca_file=files.ca_file) == 200


@row(TABLE, "--tls-client-ca")
@row(TABLE, "--allowed-domains")
@row("Errors of the worker API", "30")
@row("Errors of the composer API", "30")
async def test_tls_client_ca_and_allowed_domains(serve: Serve, tmp_path: Path) -> None:
    """Clients must present a certificate, and a name outside of the domains is error 30."""
    files = Files(tmp_path)
    files.trust(files.ca)
    server = await serve(
        *files.server_options,
        "--tls-client-ca",
        files.path("clients.pem"),
        "--allowed-domains",
        "*.workers.example.com",
    )
    files.issue("other", "elsewhere.example.com")
    for name, status in (("worker", 200), ("other", 403)):
        context = ssl.create_default_context(cafile=files.ca_file)
        context.load_cert_chain(files.path(f"{name}.pem"), files.path(f"{name}.key"))
        assert (await server.request("GET", f"{COMPOSER}/whoami", ssl=context))[0] == status


@row(TABLE, "--socket-mode")
@pytest.mark.parametrize(("given", "mode"), [((), 0o660), (("--socket-mode", "0600"), 0o600)])
async def test_socket_mode(serve: Serve, tmp_path: Path, given: tuple[str, ...], mode: int) -> None:
    """A unix socket has these permissions, whatever the umask."""
    path = tmp_path / "a.sock"
    await serve("--listen", f"unix:{path}", *given)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@row(TABLE, "--socket-group")
async def test_socket_group(serve: Serve, tmp_path: Path) -> None:
    """A unix socket belongs to this group."""
    group = grp.getgrgid(max(os.getgroups(), default=os.getgid()))
    path = tmp_path / "a.sock"
    await serve("--listen", f"unix:{path}", "--socket-group", group.gr_name)
    assert path.stat().st_gid == group.gr_gid


@row(TABLE, "--trusted-proxies")
async def test_a_prefix_that_a_trusted_proxy_removes(serve: Serve) -> None:
    """Every path in an answer begins with the prefix that a trusted proxy has removed, and that others only claim."""
    prefix = {"X-Forwarded-Prefix": "/outer, /ci/"}
    trusting = await serve("--trusted-proxies", "127.0.0.1")
    for server, said in ((trusting, "/outer/ci"), (await serve(storage="memory:"), "")):
        _, job = await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"}, headers=prefix)
        assert job["href"] == f"{said}{COMPOSER}/jobs/{job['id']}"
        _, page = await server.request("GET", f"{COMPOSER}/jobs", headers=prefix)
        assert [page["href"], page["items"][0]["href"]] == [f"{said}{COMPOSER}/jobs", job["href"]]
        _, attempt = await server.request("POST", f"{WORKER}/jobs", ASK, headers=prefix)
        assert attempt["location"].startswith(f"{said}{WORKER}/jobs/")
        assert attempt["artifact_location"] == f"{attempt['location']}/artifacts/"
        _, said_again = await server.request("GET", attempt["location"].removeprefix(said), headers=prefix)
        assert said_again["href"] == attempt["location"]
        _, refused = await server.request("GET", f"{WORKER}/jobs/x", headers=prefix)
        assert refused["href"] == f"{said}{WORKER}/errors/8"
        _, document = await server.request("GET", f"{COMPOSER}/openapi", headers=prefix)
        assert document["servers"] == [{"url": f"{said}{COMPOSER}"}]
    _, job = await trusting.request("POST", f"{COMPOSER}/jobs", {"type": "build"})
    assert job["href"].startswith(COMPOSER)
    for bad in ("//elsewhere", "https://elsewhere", "/a/../b", "ci", "/a b", "/" + 300 * "x"):
        status, refused = await trusting.request("GET", f"{COMPOSER}/status", headers={"X-Forwarded-Prefix": bad})
        assert (status, refused["id"]) == (400, "19"), bad


@row(TABLE, "--trusted-proxies")
async def test_trusted_proxies(serve: Serve) -> None:
    """A proxy of these addresses may use all connections; each client behind it has a share of the requests."""
    server = await serve("--trusted-proxies", "127.0.9.0/24", "--max-connections", "4")
    connector = aiohttp.TCPConnector(limit=0, local_addr=("127.0.9.1", 0))
    async with aiohttp.ClientSession(server.url, connector=connector) as proxy:

        async def ready(client: str) -> int:
            async with proxy.get("/readyz", headers={"X-Forwarded-For": f"192.0.2.9, {client}"}) as answer:
                return answer.status

        async def wait() -> int:
            sent = {**JSON, "X-Forwarded-For": "192.0.2.1"}
            body = b'{"types": ["build"], "arch": "x"}'
            async with proxy.post(f"{WORKER}/jobs?wait=30s", data=body, headers=sent) as answer:
                return answer.status

        waits = [asyncio.create_task(wait()) for _ in range(2)]

        await until_waiting(server, 2)
        assert await ready("192.0.2.1") == 503
        assert await ready("192.0.2.2") == 200
        server.kill(signal.SIGTERM)
        assert [await one for one in waits] == [204, 204]


@row(TABLE, "--allowed-hosts")
async def test_allowed_hosts(serve: Serve) -> None:
    """A request that names another host is refused; tests/hostile/test_browsers.py has the ways to name one."""
    server = await serve("--allowed-hosts", "composer.example.com", "--allowed-hosts", "*.lab.example.com")
    for host, status in (("composer.example.com:8700", 200), ("a.lab.example.com", 200), ("other.example.com", 403)):
        assert (await send(server, "GET", f"{COMPOSER}/jobs", Host=host))[0] == status


@row(TABLE, "--log-level")
async def test_log_level(serve: Serve) -> None:
    """Messages below the level are not logged."""
    for level, expected in (("info", True), ("error", False)):
        server = await serve("--log-level", level, storage="memory:")
        server.kill(signal.SIGHUP)
        server.kill(signal.SIGTERM)
        await server.exited()
        assert (b"stopping" in server.log) is expected


@row(TABLE, "--log-format")
async def test_log_format(serve: Serve) -> None:
    """With `json` every line of the log is a JSON object."""
    server = await serve("--log-format", "json")
    await server.request("GET", f"{WORKER}/jobs/{NOBODY}")
    server.kill(signal.SIGTERM)
    await server.exited()
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert lines
    assert all({"time", "level", "message"} <= set(line) for line in lines)


@row(TABLE, "--drain-timeout")
async def test_drain_timeout(serve: Serve) -> None:
    """After SIGTERM the server waits this long for a request in progress, and not longer."""
    server = await serve("--drain-timeout", "1s")
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(HALF_SENT)
    assert (await reader.readline()).split()[1] == b"100"  # it reads the body now
    began = time.monotonic()
    server.kill(signal.SIGTERM)
    assert await server.exited() == 0
    assert 0.3 < time.monotonic() - began < 4.5  # the default is 5 s
    writer.close()


def test_no_setting_without_a_row() -> None:
    """The reference has every setting of the server."""
    assert [one.name for one in table_of(TABLE)] == [setting.option for setting in SETTINGS]
