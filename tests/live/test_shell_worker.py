"""The worker in docs/how-to/worker-in-shell.md."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from ..tokens import bearer, new, revoke
from .conftest import COMPOSER, Serve, Server, clean_environment, send
from .http_relay import Relay, relaying
from .test_tokens import whoami

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "worker-in-shell.md"

pytestmark = pytest.mark.usefixtures("curl")


@contextlib.asynccontextmanager
async def working(url: str, directory: Path, *command: str, **environment: str) -> AsyncIterator[None]:
    """Run the page's worker in a process group of its own."""
    script = re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert script is not None
    (directory / "worker.sh").write_text(script[1])
    process = await asyncio.create_subprocess_exec(
        *("sh", str(directory / "worker.sh"), url, "build", *command),
        start_new_session=True,
        env=clean_environment() | environment,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_a_finished_job(server: Server, tmp_path: Path) -> None:
    """The output of the command becomes an artifact, and its exit status the result, whatever the args contain."""
    args = {"location": '","location":"nowhere', "args": 1}
    async with working(server.url, tmp_path, "cat"):
        for _ in range(2):
            job = await server.submit(args=args)
            ended = await server.job(job["id"], wait="20s")
            assert (ended["state"], ended["result"]) == ("finished", {"exit_status": 0})
            _, _, output = await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/output")
            assert job["id"].encode() in output


async def test_a_failed_job(server: Server, tmp_path: Path) -> None:
    """A job fails if its command fails."""
    async with working(server.url, tmp_path, "sh", "-c", "echo no >&2; exit 3"):
        job = await server.submit()
        ended = await server.job(job["id"], wait="20s")
        assert (ended["state"], ended["result"]["exit_status"]) == ("failed", 3)
        assert (await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/output"))[2] == b"no\n"


async def test_a_cancel(server: Server, tmp_path: Path) -> None:
    """A cancel stops the command at once, and the worker runs the next job."""
    script = f"echo x >> {tmp_path}/up; exec sleep 60"
    async with working(server.url, tmp_path, "sh", "-c", script):
        for ups in (2, 4):
            job = await server.submit()

            async def up(ups: int = ups) -> bool:
                return (tmp_path / "up").exists() and (tmp_path / "up").stat().st_size == ups

            await server.until(up)
            await server.request("POST", f"{COMPOSER}/jobs/{job['id']}/cancel")


async def test_a_token_that_is_replaced(serve: Serve, tmp_path: Path) -> None:
    """A worker whose token is revoked while it runs a job finishes it with the token that takes its place."""
    tokens, file = tmp_path / "tokens", tmp_path / "token"
    token = new(tokens, "builder-7", "worker")
    file.write_text(token)
    headers = bearer(new(tokens, "ops", "admin"))
    server = await serve("--tokens", str(tokens))
    script = f"echo > {tmp_path}/begun; until [ -e {tmp_path}/end ]; do sleep 0.1; done; echo done"
    async with working(server.url, tmp_path, "sh", "-c", script, COMPOSERD_TOKEN_FILE=str(file)):
        _, job = await server.request("POST", f"{COMPOSER}/jobs", {"type": "build"}, headers=headers)

        async def begun() -> bool:
            return (tmp_path / "begun").exists()

        async def noticed() -> bool:
            return (await whoami(server, token))[0] == 401

        async def refused() -> bool:
            return b"the token of builder-7 is revoked" in server.log

        await server.until(begun)
        revoke(tokens, "builder-7")
        await server.until(noticed)
        server.forget_log()
        (tmp_path / "end").touch()
        await server.until(refused)
        file.write_text(new(tokens, "builder-7", "worker"))
        path = f"{COMPOSER}/jobs/{job['id']}"
        _, ended = await server.request("GET", f"{path}?wait=20s", headers=headers)
        assert (ended["state"], ended["retries"]) == ("finished", 0)
        assert (await server.request("GET", f"{path}/artifacts/output", headers=headers))[1] == b"done\n"


async def test_heartbeats_while_a_proxy_keeps_the_upload(serve: Serve, tmp_path: Path) -> None:
    """A proxy that keeps an upload for longer than the lease costs nothing, because the heartbeats go on meanwhile."""
    server = await serve("--heartbeat-timeout", "2s", "--sweep-interval", "100ms")
    async with relaying(server.url) as relay:
        keep_uploads(relay)
        job = await server.submit()
        async with working(relay.url, tmp_path, "cat"):
            ended = await server.job(job["id"], wait="30s")
    assert (ended["state"], ended["retries"]) == ("finished", 0)


def keep_uploads(relay: Relay) -> None:
    """Let a relay pass an upload on after five more heartbeats, which take longer than the lease, or after 6 s."""
    heartbeats = 0
    enough = asyncio.Event()

    async def keep(request: web.Request) -> None:
        nonlocal heartbeats
        if request.method == "PUT":
            heartbeats = 0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), 6)
        elif request.method == "GET":
            heartbeats += 1
            if heartbeats == 5:
                enough.set()

    relay.hook = keep


async def test_what_a_proxy_answers(server: Server, tmp_path: Path) -> None:
    """A proxy's own answer to a heartbeat, an upload or a result ends nothing, and passes for no success."""
    left = {"GET": 404, "PUT": 200, "PATCH": 403}
    async with relaying(server.url, prefix="/ci") as relay:

        async def refuse(request: web.Request) -> web.StreamResponse | None:
            if request.method == "GET" and "wait" not in request.query:
                return None
            status = left.pop(request.method, None)
            return None if status is None else relay.page(status)

        relay.hook = refuse
        job = await server.submit()
        async with working(relay.url, tmp_path, "sh", "-c", "cat; sleep 1"):
            ended = await server.job(job["id"], wait="30s")
        assert not left
        assert (ended["state"], ended["retries"], ended["result"]) == ("finished", 0, {"exit_status": 0})
        _, _, output = await send(server, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/output")
        reported = [json.loads(await one.read()) for one in relay.requests if one.method == "PATCH"]
        digests = {one.headers["Content-Digest"] for one in relay.requests if one.method == "PUT"}
    sha256 = hashlib.sha256(output)
    listed = {"name": "output", "size": len(output), "sha256": sha256.hexdigest()}
    assert [report["artifacts"] for report in reported] == [[listed], [listed]]
    assert digests == {f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"}


async def test_an_output_that_is_too_large_for_a_proxy(server: Server, tmp_path: Path) -> None:
    """The job fails once, and its reason names the proxy."""
    async with relaying(server.url) as relay:

        async def refuse(request: web.Request) -> web.StreamResponse | None:
            return relay.page(413) if request.method == "PUT" else None

        relay.hook = refuse
        job = await server.submit()
        async with working(relay.url, tmp_path, "cat"):
            ended = await server.job(job["id"], wait="20s")
    why = "The output was not uploaded: HTTP status 413 from a proxy, not from composerd."
    assert (ended["state"], ended["retries"], ended["result"]["job_error"]["reason"]) == ("failed", 0, why)


async def test_an_upload_that_arrives_changed(server: Server, tmp_path: Path) -> None:
    """A job fails if the answer to its upload has another digest than was sent."""
    async with relaying(server.url) as relay:

        async def answer(request: web.Request) -> web.StreamResponse | None:
            headers = {"X-Operation-Id": "1", "Content-Digest": f"sha-256=:{'A' * 43}=:"}
            return web.Response(headers=headers) if request.method == "PUT" else None

        relay.hook = answer
        job = await server.submit()
        async with working(relay.url, tmp_path, "cat"):
            ended = await server.job(job["id"], wait="20s")
    assert ended["state"] == "failed"
    assert "the server has stored other bytes" in ended["result"]["job_error"]["reason"]


async def test_an_output_that_never_arrives(server: Server, tmp_path: Path) -> None:
    """A job fails if a proxy has no answer to its upload again and again, while the server answers other requests."""
    async with relaying(server.url) as relay:

        async def refuse(request: web.Request) -> web.StreamResponse | None:
            return relay.page(502) if request.method == "PUT" else None

        relay.hook = refuse
        job = await server.submit()
        async with working(relay.url, tmp_path, "cat"):
            ended = await server.job(job["id"], wait="30s")
    assert "HTTP status 502 from a proxy" in ended["result"]["job_error"]["reason"]
    assert sum(request.method == "PUT" for request in relay.requests) == 6


async def test_a_pause_after_an_early_answer(server: Server, tmp_path: Path) -> None:
    """A worker whose wait ends early waits at least a second before it asks again."""
    times: list[float] = []
    enough = asyncio.Event()
    async with relaying(server.url) as relay:

        async def answer(_request: web.Request) -> web.StreamResponse | None:
            times.append(asyncio.get_running_loop().time())
            if len(times) == 2:
                enough.set()
            return web.Response(status=204, headers={"X-Operation-Id": "1"})

        relay.hook = answer
        async with working(relay.url, tmp_path, "cat"), asyncio.timeout(20):
            await enough.wait()
    assert times[1] - times[0] > 0.9


async def test_a_server_below_a_base_path(serve: Serve, tmp_path: Path) -> None:
    """The worker uses the paths that a server names as they are if they have its base path already."""
    server = await serve("--base-path", "/ci")
    _, job = await server.request("POST", f"/ci{COMPOSER}/jobs", {"type": "build"})
    async with working(f"{server.url}/ci/", tmp_path, "cat"):
        _, ended = await server.request("GET", f"{job['href']}?wait=20s")
    assert ended["state"] == "finished"
