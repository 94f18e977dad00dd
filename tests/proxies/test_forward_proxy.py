"""Clients and workers that reach the server through a real Squid, as in the network of a company."""

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from composerd_client import ComposerClient, JobContext, ProxyUnreachable, Worker

from ..live.conftest import LOOPBACK, Serve, Server, until_waiting
from ..live.test_tls import Files, files
from .conftest import create, free_port

__all__ = ["files"]

NAME = "composerd.test"

_CONFIGURATION = """\
http_port ADDRESS:PORT
hosts_file SCRATCH/hosts
pid_filename SCRATCH/pid
cache_log SCRATCH/log
access_log none
coredump_dir SCRATCH
cache_store_log none
netdb_filename none
pinger_enable off
dns_nameservers 127.0.0.1
shutdown_lifetime 0 seconds
visible_hostname squid
auth_param basic program SCRATCH/login
auth_param basic children 1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""
"""Like Debian's, but without a cache, for all ports, and with a login."""

_LOGIN = """\
#!/bin/sh
while read -r user password; do
    if [ "$user $password" = "me p@ss" ]; then echo OK; else echo ERR; fi
done
"""
"""Knows one user, with the password `p@ss`."""


@pytest.fixture
async def squid(installed: Callable[[str, str, str], str]) -> AsyncIterator[str]:
    """Start a Squid that wants a login, and return its address."""
    program = installed("squid", "Squid", "squid")
    scratch, port = create(), free_port(LOOPBACK)
    text = _CONFIGURATION.replace("ADDRESS", LOOPBACK).replace("PORT", str(port)).replace("SCRATCH", str(scratch))
    (scratch / "configuration").write_text(text)
    (scratch / "hosts").write_text(f"{LOOPBACK} {NAME}\n")
    (scratch / "login").write_text(_LOGIN)
    (scratch / "login").chmod(0o755)
    (scratch / "log").touch()
    if os.geteuid() == 0:
        shutil.chown(scratch, "proxy")
        shutil.chown(scratch / "log", "proxy")
    process = await asyncio.create_subprocess_exec(
        *(program, "-N", "-f", str(scratch / "configuration")), start_new_session=True
    )
    try:
        async with asyncio.timeout(30):
            while True:
                assert process.returncode is None, (scratch / "log").read_text()
                with contextlib.suppress(OSError):
                    (await asyncio.open_connection(LOOPBACK, port))[1].close()
                    break
                await asyncio.sleep(0.05)
        yield f"{LOOPBACK}:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(scratch)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_job_through_squid(scheme: str, squid: str, serve: Serve, files: Files) -> None:
    """Requests with a login wait for a job and for its end, files are transferred, and a cancel is noticed."""
    tls: dict[str, Any] = {}
    if scheme == "https":
        files.issue("server", NAME)
        server = await serve(*files.server_options, "--tls-client-ca", files.path("clients.pem"))
        tls = {"ca_file": files.ca_file, **files.pair("worker")}
    else:
        server = await serve()
    url = f"{scheme}://{NAME}:{server.address[1]}"
    options = {"proxy": f"http://me:p%40ss@{squid}", **tls}
    worker = Worker(url, **options)
    began, canceled = asyncio.Event(), asyncio.Event()

    @worker.handler("build")
    async def build(job: JobContext) -> Any:
        await job.upload("file", b"artifact" * 500_000)
        return job.args

    @worker.handler("endless")
    async def endless(_: JobContext) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            canceled.set()

    running = asyncio.ensure_future(worker.run(jobs=2))
    async with asyncio.timeout(60), ComposerClient(url, **options) as composer:
        await _until_waiting(server, files, scheme)
        job = await composer.submit("build", args="args")
        assert (await composer.wait(job.id)).result == "args"
        artifact = (await composer.artifacts(job.id))[0]
        assert b"".join([part async for part in composer.read(artifact)]) == b"artifact" * 500_000
        job = await composer.submit("endless")
        await began.wait()
        await composer.cancel(job.id)
        await canceled.wait()
        await running


async def _until_waiting(server: Server, files: Files, scheme: str) -> None:
    """Wait until the worker waits for a job."""
    if scheme == "http":
        await until_waiting(server, 1)
        return
    context = ssl.create_default_context(cafile=files.ca_file)
    context.check_hostname = False
    context.load_cert_chain(files.path("worker.pem"), files.path("worker.key"))
    await until_waiting(server, 1, ssl=context)


async def test_squid_without_a_login(squid: str) -> None:
    """Squid's 407 for a tunnel names the proxy and what to write."""
    async with ComposerClient(f"https://{NAME}:8700", patience=0, proxy=f"http://me:wrong@{squid}") as composer:
        with pytest.raises(ProxyUnreachable, match=r"\(Squid\) wants a login \(407\)"):
            await composer.workers()


async def test_squid_without_the_server(squid: str) -> None:
    """If no server listens at the address that Squid is asked for, the error says so."""
    address = f"{NAME}:{free_port(LOOPBACK)}"
    async with ComposerClient(f"https://{address}", patience=0, proxy=f"http://me:p%40ss@{squid}") as composer:
        with pytest.raises(ProxyUnreachable, match=rf"\(Squid\) cannot connect to {address} \(50[34]\): is `composerd"):
            await composer.workers()
