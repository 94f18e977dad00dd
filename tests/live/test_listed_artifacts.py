"""Results that list their artifacts, and what the answer to an upload says, on a server with a file or a database."""

import asyncio
import base64
import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, JSON, Serve, Server, error, send

HELLO = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture(params=["fs", "postgres"])
async def listing(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> AsyncIterator[Server]:
    """Return a server on each kind of storage that is ours; it accepts three artifacts of an attempt."""
    storage = None
    if request.param == "postgres":
        postgres: Throwaway = request.getfixturevalue("newest_postgres")
        storage = postgres.fresh()
    server = await serve("--max-artifacts", "3", "--artifacts", str(tmp_path / "files"), storage=storage)
    yield server
    assert b"Traceback" not in server.log, server.log.decode()


async def taken(server: Server, *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a job and its attempt, which has uploaded `hello` under these names."""
    job = await server.submit()
    attempt = await server.ask()
    assert attempt is not None
    for name in names:
        assert (await send(server, "PUT", attempt["artifact_location"] + quote(name), b"hello"))[0] == 200
    return job, attempt


async def finish(server: Server, attempt: dict[str, Any], artifacts: Any) -> tuple[int, Any]:
    """Report a result that lists artifacts."""
    return await server.request("PATCH", attempt["location"], {"result": 1, "artifacts": artifacts})


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield the parts of a body of unknown length."""
    for part in parts:
        yield part


async def test_a_result_that_lists_other_artifacts(listing: Server) -> None:
    """Error 41 names the first difference and changes nothing; the right list finishes the job, again and again."""
    job, attempt = await taken(listing, "a", "b é")
    for artifacts, details in (
        ([{"name": "a"}, {"name": "b é"}, {"name": "c"}], {"difference": "missing", "name": "c"}),
        ([{"name": "b é"}], {"difference": "unexpected", "name": "a"}),
        ([], {"difference": "unexpected", "name": "a"}),
        ([{"name": "a", "size": 4}, {"name": "x"}], {"difference": "size", "name": "a", "uploaded": 5}),
        ([{"name": "a", "sha256": "0" * 64}], {"difference": "sha256", "name": "a", "uploaded": HELLO}),
    ):
        status, refused = await finish(listing, attempt, artifacts)
        assert (status, refused["id"]) == (409, "41")
        assert {name: value for name, value in refused["details"].items() if name != "problem"} == details
    assert (await listing.job(job["id"]))["state"] == "running"
    exact = [{"name": "b é", "size": None, "sha256": HELLO.upper()}, {"name": "a", "size": 5, "later": True}]
    for _ in range(2):
        assert (await finish(listing, attempt, exact))[0] == 200
    assert (await finish(listing, attempt, []))[0] == 200  # the result is the same
    assert (await listing.job(job["id"]))["state"] == "finished"
    items = (await listing.request("GET", f"{COMPOSER}/jobs/{job['id']}/artifacts"))[1]["items"]
    assert [one["name"] for one in items] == ["a", "b é"]


async def test_no_list(listing: Server) -> None:
    """Without a list, or with null, a result is accepted whatever was uploaded, and so is an empty object."""
    for body in (b'{"result":1}', b'{"result":1,"artifacts":null}', b'{"partial":null,"result":1}', b"{}"):
        _, attempt = await taken(listing, "a")
        assert (await send(listing, "PATCH", attempt["location"], body, **JSON))[0] == 200


async def test_a_list_of_a_failed_job(listing: Server) -> None:
    """A result with a `job_error` is compared too."""
    job, attempt = await taken(listing, "log")
    body: dict[str, Any] = {"result": {"job_error": {"id": 1, "reason": "x", "details": None}}, "artifacts": []}
    assert (await listing.request("PATCH", attempt["location"], body))[0] == 409
    assert (await listing.request("PATCH", attempt["location"], {**body, "artifacts": [{"name": "log"}]}))[0] == 200
    assert (await listing.job(job["id"]))["state"] == "failed"


async def test_a_wrong_list(listing: Server) -> None:
    """A list that is too long, or has a name twice, or one that no artifact may have, is error 19."""
    job, attempt = await taken(listing)
    for artifacts, field in (
        ([{"name": name} for name in "abcd"], "artifacts"),
        ([{"name": "a"}, {"name": "a"}], "artifacts[1].name"),
        ([{"name": "a/b"}], "artifacts[0].name"),
        ([{"name": ""}], "artifacts[0].name"),
        ([{"size": 1}], "artifacts[0].name"),
        ([{"name": "a", "size": -1}], "artifacts[0].size"),
        ([{"name": "a", "sha256": "xyz"}], "artifacts[0].sha256"),
        ({"name": "a"}, "artifacts"),
        ("a", "artifacts"),
        ([{}] * 3000, "artifacts"),
    ):
        body = json.dumps({"result": 1, "artifacts": artifacts}).encode()
        status, number, details = await error(listing, "PATCH", attempt["location"], body, **JSON)
        assert (status, number, details["field"]) == (400, 19, field)
    assert (await listing.job(job["id"]))["state"] == "running"


async def test_a_list_without_a_result(server: Server) -> None:
    """A list together with progress, or alone, is error 19."""
    _, attempt = await taken(server)
    for body, field in ((b'{"partial":1,"artifacts":[]}', "artifacts"), (b'{"artifacts":[]}', "result")):
        status, number, details = await error(server, "PATCH", attempt["location"], body, **JSON)
        assert (status, number, details["field"]) == (400, 19, field)


async def test_uploads_and_results_that_race(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """A job publishes exactly the files that its result lists, while another server goes on replacing one."""
    url, files = newest_postgres.fresh(), str(tmp_path / "files")
    first, second = [await serve("--artifacts", files, storage=url) for _ in range(2)]
    for _ in range(10):
        job, attempt = await taken(first, "a")

        async def replace(path: str = attempt["artifact_location"] + "a") -> None:
            bodies = itertools.cycle((b"hello", b"other"))
            while (await send(second, "PUT", path, next(bodies)))[0] == 200:
                pass

        assert (await send(second, "PUT", attempt["artifact_location"] + "a", b"other"))[0] == 200
        replacing = asyncio.create_task(replace())
        while (await finish(first, attempt, [{"name": "a", "sha256": HELLO}]))[0] == 409:
            pass
        await replacing
        assert (await send(first, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/a"))[2] == b"hello"


async def test_an_upload_of_unknown_length(listing: Server, tmp_path: Path) -> None:
    """An upload of unknown length replaces a longer file only with a digest; one of known length replaces any."""
    job, attempt = await taken(listing)
    path = attempt["artifact_location"] + "a"
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(b'ab').digest()).decode()}:"
    for body in (b"first", b"other", b"longer than that"):
        assert (await send(listing, "PUT", path, chunks(body)))[0] == 200
    for parts in ((), (b"a", b"b")):
        status, number, details = await error(listing, "PUT", path, chunks(*parts))
        assert (status, number, "problem" in details) == (411, 42, True)
    assert (await error(listing, "PUT", path, chunks(b"ab"), Content_Digest="sha-512=:AAAA:"))[:2] == (411, 42)
    assert (await send(listing, "PUT", path, chunks(b"ab"), Content_Digest=digest))[0] == 200
    assert (await send(listing, "PUT", path, b"a"))[0] == 200
    assert (await finish(listing, attempt, [{"name": "a", "size": 1}]))[0] == 200
    assert len([*(tmp_path / "files").rglob("*/*/*")]) == 1  # nothing is left of the others
    assert (await send(listing, "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/a"))[2] == b"a"


async def test_uploads_of_unknown_length_at_once(serve: Serve, newest_postgres: Throwaway, tmp_path: Path) -> None:
    """Of uploads of unknown length to two servers at one time, the longest stays, and each answer says what it is."""
    url, files = newest_postgres.fresh(), str(tmp_path / "files")
    servers = [await serve("--artifacts", files, storage=url) for _ in range(2)]
    job, attempt = await taken(servers[0])
    sizes = (3000, 8000, 0, 7000, 5000, 2000, 6000, 4000)
    path = attempt["artifact_location"] + "a"
    answers = await asyncio.gather(
        *[send(servers[n % 2], "PUT", path, chunks(b"x" * size)) for n, size in enumerate(sizes)]
    )
    assert {status for status, _, _ in answers} <= {200, 411}
    assert answers[1][0] == 200
    assert (await finish(servers[1], attempt, [{"name": "a", "size": 8000}]))[0] == 200
    assert len((await send(servers[0], "GET", f"{COMPOSER}/jobs/{job['id']}/artifacts/a"))[2]) == 8000


@pytest.mark.parametrize(
    ("accept", "has_body"),
    [
        (None, False),
        ("*/*", True),
        ("application/json", True),
        ("text/html, application/json;q=0.5", True),
        ("application/*", True),
        ("application/json;q=0, */*", False),
        ("text/plain", False),
        ("*/*;q=0.0", False),
    ],
)
async def test_the_answer_to_an_upload(server: Server, accept: str | None, has_body: bool) -> None:
    """The digest of what is stored is in a header, and in a body if Accept allows JSON; the connection stays open."""
    _, attempt = await taken(server)
    reader, writer = await asyncio.open_connection(*server.address)
    more = "" if accept is None else f"Accept: {accept}\r\n"
    for name in ("a", "b"):
        head = f"PUT {attempt['artifact_location']}{name} HTTP/1.1\r\nHost: a\r\n{more}Content-Length: 5\r\n\r\n"
        writer.write(head.encode() + b"hello")
        answered = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert answered.startswith("HTTP/1.1 200 ")
        headers = dict(line.split(": ", 1) for line in answered.split("\r\n")[1:] if line)
        assert headers["Content-Digest"] == f"sha-256=:{base64.b64encode(bytes.fromhex(HELLO)).decode()}:"
        body = await reader.readexactly(int(headers["Content-Length"]))
        assert bool(body) == has_body
        if body:
            stored = json.loads(body)
            assert stored["href"] == attempt["artifact_location"] + name
            assert (stored["kind"], stored["name"], stored["size"], stored["sha256"]) == ("Artifact", name, 5, HELLO)
    writer.close()


async def test_an_upload_that_is_refused_for_now(serve: Serve, tmp_path: Path) -> None:
    """An upload that gets error 28 is not told when to come again: clients would send what is left of it."""
    files = tmp_path / "files"
    server = await serve("--artifacts", str(files))
    _, attempt = await taken(server)
    files.rename(tmp_path / "moved")
    files.mkdir()
    status, headers, body = await send(server, "PUT", attempt["artifact_location"] + "a", chunks(b"hello"))
    assert (status, json.loads(body)["id"], "Retry-After" in headers) == (503, "28", False)
