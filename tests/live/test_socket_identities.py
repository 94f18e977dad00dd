"""Identities of users and groups on a unix socket, with clients that run as other users."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, Serve, clean_environment
from .test_cli import composerd
from .test_tls import Files

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a client as another user")

ALICE, BOB, FRIENDS = 4711, 4712, 4713
"""Two users and a group that no file of this machine has."""

_ASK = """
import json, os, socket, sys
user, groups = json.loads(sys.argv[4])
os.setgroups(groups)
os.setresgid(user, user, user)
os.setresuid(user, user, user)
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(f"GET {sys.argv[2]} HTTP/1.0\\r\\n{sys.argv[3]}\\r\\n".encode())
print(client.makefile("rb").read().decode())
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """Create a directory that every user can enter."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


async def ask(
    path: Path, user: int, *groups: int, target: str = f"{COMPOSER}/whoami", headers: str = ""
) -> tuple[int, Any]:
    """Send a request as a user whose primary group has the same number; return the status and the decoded answer."""
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-IS", "-c", _ASK, str(path), target, headers, json.dumps([user, groups])],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    head, _, body = process.stdout.partition("\n\n")
    return int(head.split()[1]), json.loads(body) if body.startswith("{") else body


async def role(path: Path, user: int, *groups: int, **more: str) -> str | None:
    """Return the role of a user; None for 401."""
    status, answer = await ask(path, user, *groups, **more)
    assert status in (200, 401), answer
    return str(answer["role"]) if status == 200 else None


def options(path: Path, *more: str) -> Sequence[str]:
    """Return the options of a server with a socket that every user may connect to."""
    return ("--listen", f"unix:{path}", "--socket-mode", "0666", *more)


def mapping(path: Path, *tables: str) -> str:
    """Write a file of identities, and return its path."""
    path.write_text("".join(f"[[identity]]\n{table}\n" for table in tables))
    return str(path)


@pytest.mark.row("Settings", "--socket-identities")
async def test_the_mapping_of_users_and_groups(serve: Serve, public: Path, tmp_path: Path) -> None:
    """Users and groups get the identities of the file; supplementary groups count, and what is not named is nobody."""
    file = mapping(
        tmp_path / "identities.toml",
        f'user = {ALICE}\nrole = "submitter"\ntenant = "acme"\nname = "alice"',
        f'group = {FRIENDS}\nrole = "worker"',
        'user = "daemon"\nrole = "viewer"',
    )
    path = public / "a.sock"
    server = await serve(*options(path, "--socket-identities", file, "--socket-group", str(BOB)))
    status, alice = await ask(path, ALICE)
    assert status == 200
    assert {name: alice[name] for name in ("name", "role", "tenant", "source", "expires_at")} == {
        "name": "alice",
        "role": "submitter",
        "tenant": "acme",
        "source": "socket",
        "expires_at": None,
    }
    assert (await ask(path, BOB, FRIENDS))[1]["name"] == f"uid-{BOB}"
    assert await role(path, BOB, FRIENDS) == "worker"
    assert await role(path, 1) == "viewer"
    assert await role(path, 0) == "admin"  # root, as the server's own user
    status, answer = await ask(path, BOB)  # the group of the socket is nobody once there is a file
    assert status == 401
    assert "socket_identities" in answer["details"]["problem"]
    assert (await server.request("GET", f"{COMPOSER}/whoami"))[0] == 401  # over TCP nobody says who it is


async def test_the_default(serve: Serve, public: Path, tmp_path: Path) -> None:
    """Without a mapping of users, root, the server's user and the members of the socket's group are administrators."""
    path = public / "a.sock"
    tls = Files(tmp_path)
    tls.trust(tls.ca)
    client_ca = ("--tls-client-ca", tls.path("clients.pem"), "--allowed-domains", "*.example.com")
    await serve(*options(path, *tls.server_options, *client_ca, "--socket-group", str(FRIENDS)))
    assert await role(path, 0) == "admin"
    assert (await ask(path, ALICE, FRIENDS))[1]["name"] == f"uid-{ALICE}"
    assert await role(path, ALICE, FRIENDS) == "admin"
    assert await role(path, FRIENDS) == "admin"  # as the primary group
    assert await role(path, ALICE, *range(10_000, 10_600), FRIENDS) == "admin"
    assert await role(path, ALICE, BOB) is None


async def test_several_processes(serve: Serve, public: Path, tmp_path: Path, newest_postgres: Throwaway) -> None:
    """Each of several processes knows the group of the socket that they share."""
    path = public / "a.sock"
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    group = ("--socket-group", str(FRIENDS), "--tokens", str(tokens))
    await serve(*options(path, "--processes", "2", *group), storage=newest_postgres.fresh())
    for _ in range(6):
        assert await role(path, ALICE, FRIENDS) == "admin"
        assert await role(path, ALICE) is None


async def test_no_identities(serve: Serve, public: Path) -> None:
    """While no identity is configured, everybody who can connect to the socket may do everything, as ever."""
    path = public / "a.sock"
    await serve(*options(path))
    status, answer = await ask(path, ALICE)
    assert (status, answer["role"], answer["source"]) == (200, "admin", None)
    assert (await ask(path, ALICE, target="/metrics"))[0] == 200


async def test_a_change_of_the_file(serve: Serve, public: Path, tmp_path: Path) -> None:
    """A change of the file holds for open connections too; one with a mistake changes nothing, and is reported."""
    file = Path(mapping(tmp_path / "identities.toml", 'user = "root"\nrole = "viewer"'))
    path = public / "a.sock"
    server = await serve(*options(path, "--socket-identities", str(file)))

    reader, writer = await asyncio.open_unix_connection(str(path))

    async def mine() -> str:
        writer.write(f"GET {COMPOSER}/whoami HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        length = int((await reader.readuntil(b"\r\n\r\n")).lower().partition(b"content-length: ")[2].split()[0])
        answer = json.loads(await reader.readexactly(length))
        return str(answer.get("role"))

    assert await mine() == "viewer"
    mapping(file, 'user = "root"\nrole = "submitter"')

    async def changed() -> bool:
        return await mine() == "submitter"

    await server.until(changed)
    mapping(file, 'user = "nobody-has-this"\nrole = "submitter"')

    async def reported() -> bool:
        return b"there is no user 'nobody-has-this'" in server.log

    await server.until(reported)
    assert await mine() == "submitter"
    writer.close()


async def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    """A start with a mistake in the file is exit code 2 and a sentence that names the setting and the file."""
    file = mapping(tmp_path / "identities.toml", 'user = "root"\nrole = "boss"')
    ended = await composerd("serve", "--listen", "127.0.0.1:0", "--storage", "memory:", "--socket-identities", file)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert ended.err.startswith(f"composerd: socket_identities: {file} cannot be used: in table 1 ")


@contextlib.asynccontextmanager
async def nginx(program: str, directory: Path, server: Path, *lines: str) -> AsyncIterator[Path]:
    """Run nginx in front of a unix socket, as root, and yield the socket on which it listens itself."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    listening = directory / "nginx.sock"
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"user root; daemon off; pid {directory}/pid; events {{}} http {{ {paths} access_log off;"
        f"server {{ listen unix:{listening}; location / {{ proxy_pass http://unix:{server}; {' '.join(lines)} }} }} }}"
    )
    command = [program, "-p", str(directory), "-e", "stderr", "-c", str(configuration)]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    (await asyncio.open_unix_connection(str(listening)))[1].close()
                    break
                await asyncio.sleep(0.02)
        listening.chmod(0o666)
        yield listening
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_proxy_has_no_identity(
    serve: Serve, public: Path, tmp_path: Path, installed: Callable[[str, str], str], trusted: bool
) -> None:
    """Requests through a proxy are not the proxy's own: if it is trusted, or if it says for whom it asks."""
    program = installed("nginx", "nginx")
    file = mapping(tmp_path / "identities.toml", f'user = {ALICE}\nrole = "submitter"')
    path = public / "a.sock"
    await serve(*options(path, "--socket-identities", file, *(("--trusted-proxies", "unix") if trusted else ())))
    header = "" if trusted else "proxy_set_header X-Forwarded-For $remote_addr;"
    async with nginx(program, public, path, header) as proxy:
        assert await role(proxy, ALICE) is None
        assert await role(proxy, 0) is None
        assert (await ask(proxy, ALICE, target="/healthz"))[0] == 200
    assert await role(path, ALICE) == (None if trusted else "submitter")
    assert await role(path, ALICE, headers="X-Forwarded-For: 192.0.2.1\r\n") is None


async def test_users_of_another_user_namespace(public: Path, tmp_path: Path) -> None:
    """A server in a user namespace of its own takes users that do not exist there for nobody, whoever they are."""
    file = mapping(tmp_path / "identities.toml", 'group = "root"\nrole = "monitor"')
    path = public / "a.sock"
    command = [sys.executable, "-m", "composerd.cli.main", "serve", "--storage", "memory:", "--listen", f"unix:{path}"]
    command += ["--socket-mode", "0666", "--socket-identities", file]
    process = await asyncio.create_subprocess_exec(
        "unshare", "--user", "--map-root-user", *command, stdout=subprocess.PIPE, env=clean_environment()
    )
    assert process.stdout is not None
    try:
        assert (await process.stdout.readline()).startswith(b"listening on ")
        assert await role(path, 0) == "monitor"  # as the group, which the file names
        assert await role(path, ALICE) is None
        assert await role(path, 65534) is None
        assert await role(path, ALICE, 0) == "monitor"  # the group exists on both sides
    finally:
        process.terminate()
        await process.communicate()
