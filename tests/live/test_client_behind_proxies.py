"""Our clients behind a proxy: its own answers, its limits, and a prefix."""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from composerd_client import ComposerClient, DamagedUpload, JobContext, ProxyAnswered, RequestFailed, Worker
from composerd_client.repeating import MOST_FAILURES

from .conftest import Serve, Server, send
from .http_relay import Relay, relaying
from .test_cli import composerd, working
from .test_client_faults import answered, refusal
from .test_shell_worker import keep_uploads

DATA = b"x" * 100_000
SHA256 = hashlib.sha256(DATA)
CONTENT_DIGEST = f"sha-256=:{base64.b64encode(SHA256.digest()).decode()}:"


@contextlib.asynccontextmanager
async def worker(relay: Relay, handler: Callable[[JobContext], Any], **options: Any) -> AsyncIterator[Worker]:
    """Run a worker for the length of a block."""
    worker = Worker(relay.url, arch="x86_64", **options)
    worker.handler("build")(handler)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def upload(job: JobContext) -> dict[str, int]:
    """Report progress, and upload two files."""
    await job.progress(1)
    await job.upload("a", DATA)
    await job.upload("b", b"")
    return {"n": 1}


@pytest.mark.parametrize(
    ("status", "headers"),
    [(status, {}) for status in (200, 204, 302, 403, 404, 429, 501, 502)] + [(302, {"Location": "/maintenance"})],
)
async def test_a_proxy_that_answers_itself_for_a_while(
    server: Server, relay: Relay, status: int, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a proxy answers to the first two of each kind of request, the job finishes in its first attempt.

    So it does if the proxy redirects to a path that composerd does not have. The log has one line about each outage,
    and one about its end.
    """
    seen = Counter[str]()

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        kind = f"{request.method} {request.query_string}"
        seen[kind] += 1
        return relay.page(status, **headers) if seen[kind] <= 2 and request.path != "/maintenance" else None

    relay.hook = refuse
    job = await server.submit()
    begun: list[int] = []
    with caplog.at_level(logging.INFO):
        async with worker(relay, upload):
            ended = await server.job(job["id"], wait="20s")
    assert (ended["state"], ended["retries"], ended["result"]) == ("finished", 0, {"n": 1})
    for what in ("request a job", f"renew the lease of job {job['id']}", f"report the result of job {job['id']}"):
        line = f"cannot {what}, trying again: {status} from a proxy (nginx), not from composerd: "
        ends = re.findall(rf"the server answers again, [0-9.]+ s after the first failure to {what}", caplog.text)
        assert caplog.text.count(line) == len(ends)
        begun.append(len(ends))
    assert begun[0] == 1
    assert max(begun) == 1


async def test_a_result_that_is_too_large_for_a_proxy(server: Server, relay: Relay) -> None:
    """A job whose result a proxy refuses as too large fails once, and the result and the log say what to change."""

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        large = request.method == "PATCH" and len(await request.read()) > 1000
        return relay.page(413) if large else None

    relay.hook = refuse
    script = "printf '\"%01000d\"' 0 > $COMPOSERD_RESULT"
    job = await server.submit()
    async with working(
        server, "--arch", "x86_64", "--server", relay.url, "--once", "--", "sh", "-c", script
    ) as process:
        _, said = await process.communicate()
    ended = await server.job(job["id"])
    why = "413 from a proxy (nginx), not from composerd: raise its client_max_body_size"
    assert (ended["state"], ended["retries"]) == ("failed", 0)
    assert ended["result"]["job_error"]["reason"] == f"The result of 1002 bytes was refused: {why}"
    assert f"s: The result of 1002 bytes was refused: {why}" in said.decode()
    assert sum(request.method == "PATCH" for request in relay.requests) == 2


async def test_an_artifact_that_is_too_large_for_a_proxy(server: Server, relay: Relay) -> None:
    """A job whose artifact a proxy refuses as too large fails once, and names the file and what to change."""

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        return relay.page(413) if request.method == "PUT" else None

    relay.hook = refuse
    script = "echo image > $COMPOSERD_ARTIFACTS/image.raw"
    job = await server.submit()
    async with working(
        server, "--arch", "x86_64", "--server", relay.url, "--once", "--", "sh", "-c", script
    ) as process:
        _, said = await process.communicate()
        assert process.returncode == 1
    ended = await server.job(job["id"])
    why = "the file 'image.raw' of 6 bytes was not stored: 413 from a proxy (nginx), not from composerd: "
    why += "raise its client_max_body_size"
    assert (ended["state"], ended["retries"]) == ("failed", 0)
    assert why in ended["result"]["job_error"]["reason"]
    assert why in said.decode()
    assert sum(request.method == "PUT" for request in relay.requests) == 1


async def test_digests_and_the_list_of_artifacts(server: Server, relay: Relay, tmp_path: Path) -> None:
    """Each upload has a length and a digest, except a stream's, and the result lists all that were uploaded."""
    path = tmp_path / "file"
    path.write_bytes(DATA)

    async def parts() -> AsyncIterator[bytes]:
        for begin in range(0, len(DATA), 1000):
            yield DATA[begin : begin + 1000]

    async def handler(job: JobContext) -> None:
        await job.upload("path", path)
        with path.open("rb") as file:
            await job.upload("file", file)
        await job.upload("bytes", DATA)
        await job.upload("stream", parts())

    job = await server.submit()
    async with worker(relay, handler):
        assert (await server.job(job["id"], wait="20s"))["state"] == "finished"
    digests = {
        one.path.rpartition("/")[2]: one.headers.get("Content-Digest") for one in relay.requests if one.method == "PUT"
    }
    assert digests == {"path": CONTENT_DIGEST, "file": CONTENT_DIGEST, "bytes": CONTENT_DIGEST, "stream": None}
    (finish,) = [request for request in relay.requests if request.method == "PATCH"]
    listed = json.loads(await finish.read())["artifacts"]
    assert listed == [
        {"name": name, "size": len(DATA), "sha256": SHA256.hexdigest()} for name in ("bytes", "file", "path", "stream")
    ]


@pytest.mark.parametrize("answered", ["nothing", "header", "JSON", "other header", "other JSON"])
async def test_the_digest_in_the_answer_to_an_upload(server: Server, relay: Relay, answered: str) -> None:
    """An upload is a success if its answer has the digest, or none, as after some proxies; another is an error."""
    failure: list[Exception] = []
    other = hashlib.sha256(b"")

    async def answer(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PUT":
            return None
        digest = other if "other" in answered else SHA256
        headers = {"X-Operation-Id": "1"}
        if "header" in answered:
            headers["Content-Digest"] = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
        body = (
            {"kind": "Artifact", "name": "a", "size": 1, "sha256": digest.hexdigest()} if "JSON" in answered else None
        )
        return web.json_response(body, headers=headers) if body else web.Response(headers=headers)

    async def handler(job: JobContext) -> None:
        try:
            await job.upload("a", DATA)
        except DamagedUpload as exc:
            failure.append(exc)

    relay.hook = answer
    job = await server.submit()
    async with worker(relay, handler):
        await server.job(job["id"], wait="20s")
    assert bool(failure) == ("other" in answered)


async def test_a_wait_longer_than_a_proxy_allows(server: Server, relay: Relay) -> None:
    """`wait` goes on if a proxy ends its requests with 504, also without patience, until nothing else is answered."""
    ended = asyncio.Event()
    waits = 0

    async def end(request: web.Request) -> web.StreamResponse | None:
        nonlocal waits
        if "wait" in request.query and not ended.is_set():
            waits += 1
            if waits == 4:
                ended.set()
            return relay.page(504)
        return None

    relay.hook = end
    job = await server.submit()
    async with ComposerClient(relay.url, patience=0) as composer:
        waiting = asyncio.create_task(composer.wait(job["id"]))
        async with asyncio.timeout(20):
            await ended.wait()
        await server.request("POST", f"/api/composer/v1/jobs/{job['id']}/cancel")
        assert (await waiting).state == "canceled"

        async def refuse(_request: web.Request) -> web.StreamResponse | None:
            return relay.page(502)

        relay.hook = refuse
        with pytest.raises(ProxyAnswered, match=r"502 from a proxy \(nginx\), not from composerd: .*running behind it"):
            await composer.wait(job["id"])


async def test_a_page_does_not_pass_for_an_answer(relay: Relay) -> None:
    """A page with status 200 or 204, or a redirect to a login, is a failure of a submission, with the page's words."""
    async with ComposerClient(relay.url, patience=0) as composer:
        for status, location in ((200, None), (204, None), (302, "https://login.example.com/")):

            async def answer(
                _request: web.Request, status: int = status, location: str | None = location
            ) -> web.StreamResponse | None:
                return relay.page(status, **({"Location": location} if location else {}))

            relay.hook = answer
            before = len(relay.requests)
            with pytest.raises(ProxyAnswered, match=f"{status} from a proxy") as raised:
                await composer.submit("build")
            assert (raised.value.status, raised.value.proxy, raised.value.number) == (status, "nginx", 0)
            assert len(relay.requests) == before + 1
            assert location is None or location in raised.value.reason


async def test_the_id_of_a_request_for_a_job(server: Server, relay: Relay) -> None:
    """A request that is repeated after a failure of a proxy has its id again, and the next one has another."""
    asked: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith("/jobs"):
            return None
        asked.append(json.loads(await request.read()))
        if len(asked) in (1, 2):
            return relay.page(502)
        if len(asked) == 3:
            return refusal(409, 44)
        return answered(status=204) if len(asked) == 4 else None

    relay.hook = answer
    job = await server.submit()
    async with worker(relay, lambda _job: 1, concurrency=1):
        await server.job(job["id"], wait="20s")
    ids = [one["request_id"] for one in asked[:5]]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids)) == 3
    assert {(one["slots"], one["worker_id"]) for one in asked} == {(1, asked[0]["worker_id"])}


async def test_a_pause_after_an_early_answer(relay: Relay) -> None:
    """A worker whose wait ends early waits a moment, which is random, before it asks again."""
    clock = asyncio.get_running_loop().time
    times: list[float] = []
    enough = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse | None:
        if request.method == "POST":
            times.append(clock())
        if len(times) == 3:
            enough.set()
        return answered(status=204)

    relay.hook = answer
    async with worker(relay, lambda _job: 1), asyncio.timeout(20):
        await enough.wait()
    assert all(later - earlier > 0.49 for earlier, later in pairwise(times))


@pytest.mark.parametrize("how", ["base path", "prefix header", "stripped"])
async def test_a_server_below_a_prefix(serve: Serve, tmp_path: Path, how: str) -> None:
    """All commands and the worker work with a server below a prefix: its own, or one that a proxy removes."""
    if how == "base path":
        server = await serve("--base-path", "/ci")
    else:
        server = await serve("--trusted-proxies", "127.0.0.0/8" if how == "prefix header" else "192.0.2.1")
    async with relaying(
        server.url, prefix="" if how == "base path" else "/ci", says_prefix=how == "prefix header"
    ) as relay:
        url = relay.url if how != "base path" else f"{relay.url}/ci"

        async def run(*arguments: str) -> str:
            ended = await composerd(*arguments, "--server", url)
            assert ended.code == 0, (arguments, ended)
            return ended.out

        script = "echo 1 > $COMPOSERD_ARTIFACTS/a"
        async with working(server, "--arch", "x86_64", "--server", url, "--", "sh", "-c", script):
            job = (await run("submit", "build")).strip()
            assert "finished" in await run("wait", job)
            assert job in await run("status", job)
            listed = json.loads(await run("jobs", "--json"))
            base = "/api" if how == "stripped" else "/ci/api"
            assert (listed["href"], listed["items"][0]["id"]) == (f"{base}/composer/v1/jobs", job)
            (tmp_path / "in").mkdir()
            await run("artifacts", job, "--download", str(tmp_path / "in"))
            assert (tmp_path / "in" / "a").read_text() == "1\n"
            graph = tmp_path / "graph.json"
            graph.write_text(json.dumps([{"ref": "a", "type": "build"}, {"type": "build", "dependencies": ["a"]}]))
            await run("submit", "--graph", str(graph), "--wait", "--download", str(tmp_path / "graph"))
            later = (await run("submit", "later")).strip()
            assert await run("why", later)
            await run("cancel", later)
            await run("delete", later)
        assert relay.requests
        assert all(request.path.startswith("/ci/api/") for request in relay.requests)


async def test_a_wrong_prefix(server: Server, relay: Relay) -> None:
    """A proxy's 404 says that the path is not passed on, and composerd's own 404 is its own error."""
    async with (
        relaying(server.url, prefix="/ci") as prefixed,
        ComposerClient(prefixed.url + "x", patience=0) as composer,
    ):
        with pytest.raises(ProxyAnswered, match=r"404 from a proxy .*compare its routes with the URL of the server"):
            await composer.workers()
    async with ComposerClient(relay.url + "/x") as composer:
        with pytest.raises(RequestFailed, match="Requested resource doesn't exist") as raised:
            await composer.workers()
        assert not isinstance(raised.value, ProxyAnswered)


async def test_heartbeats_while_a_proxy_keeps_the_upload(serve: Serve) -> None:
    """A proxy that keeps an upload for longer than the lease costs nothing, because the heartbeats go on meanwhile."""
    server = await serve("--heartbeat-timeout", "2s", "--sweep-interval", "100ms")
    async with relaying(server.url) as relay:
        keep_uploads(relay)
        job = await server.submit()
        async with worker(relay, lambda job: job.upload("a", DATA)):
            ended = await server.job(job["id"], wait="30s")
    assert (ended["state"], ended["retries"]) == ("finished", 0)


@pytest.mark.parametrize("said", [True, False])
async def test_an_upload_of_which_only_a_part_arrives(server: Server, relay: Relay, *, said: bool) -> None:
    """If only a part of an upload is stored, the job fails: the answer says what is stored, or else the result does."""

    async def cut(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PUT":
            return None
        part = (await request.read())[: len(DATA) // 2]
        status, headers, body = await send(server, "PUT", request.path, part)
        assert status == 200
        kept = ("X-Operation-Id", "Content-Digest") if said else ("X-Operation-Id",)
        return web.Response(body=body if said else b"", headers={name: headers[name] for name in kept})

    relay.hook = cut
    job = await server.submit()
    async with worker(relay, lambda job: job.upload("a", DATA)):
        ended = await server.job(job["id"], wait="20s")
    why = "DamagedUpload: the server has stored other" if said else "The server refused the result"
    assert (ended["state"], ended["retries"]) == ("failed", 0)
    assert why in ended["result"]["job_error"]["reason"]


async def test_an_upload_that_fails_in_an_unknown_way(server: Server, relay: Relay) -> None:
    """A result lists no artifacts if the handler goes on although it is not known whether an upload was stored."""

    async def forget(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PUT":
            return None
        await send(server, "PUT", request.path, await request.read())
        return relay.page(502)

    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    async def handler(job: JobContext) -> None:
        with contextlib.suppress(ProxyAnswered):
            await job.upload("a", parts())

    relay.hook = forget
    job = await server.submit()
    async with worker(relay, handler):
        ended = await server.job(job["id"], wait="20s")
    assert ended["state"] == "finished"


async def test_a_job_whose_answer_was_lost(server: Server, relay: Relay) -> None:
    """A worker that gets a proxy's 502 instead of its job gets that job again at once, in the same attempt."""
    lost: list[bytes] = []

    async def lose(request: web.Request) -> web.StreamResponse | None:
        if lost or not request.path.endswith("/jobs"):
            return None
        asked = await request.read()
        lost.append((await send(server, "POST", request.path_qs, asked, Content_Type="application/json"))[2])
        return relay.page(502)

    relay.hook = lose
    job = await server.submit()
    async with worker(relay, lambda _job: 1):
        ended = await server.job(job["id"], wait="5s")  # less than the time for the handover
    location = json.loads(lost[0])["location"]
    assert (ended["state"], ended["retries"]) == ("finished", 0)
    assert {request.path for request in relay.requests if request.method == "PATCH"} == {location}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("how", ["502", "broken"])
async def test_a_body_that_never_arrives(
    server: Server, relay: Relay, method: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only an upload or a result fails for a while, the job fails; if all requests fail, it goes on later."""
    monkeypatch.setattr("composerd_client.repeating.LONGEST_BACKOFF", 0.2)
    monkeypatch.setattr("composerd_client.repeating.REFUSED_FOR", 2.0)
    left = Counter({"all": 2 * MOST_FAILURES})
    seen = Counter[str]()

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        large = len(await request.read()) > 1000
        if large and request.method == method:
            seen["large"] += 1
            assert request.transport is not None
            if how == "broken":
                request.transport.close()
            return relay.page(502)
        if seen["large"] and left["all"]:
            left["all"] -= 1
            return relay.page(502)
        return None

    async def handler(job: JobContext) -> str:
        await job.upload("a", DATA)
        return "x" * 2000

    relay.hook = refuse
    job = await server.submit()
    async with worker(relay, handler):
        ended = await server.job(job["id"], wait="60s")
    assert not left["all"]
    assert seen["large"] > MOST_FAILURES
    assert (ended["state"], ended["retries"]) == ("failed", 0)
    assert "composerd answers other requests" in ended["result"]["job_error"]["reason"]
