"""Requests that are answered before their bodies have arrived: what their clients see, and what that may cost."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from ..live.test_tls import Files, files
from .conftest import COMPOSER, WORKER, Attacker, Client, Connection, Serve, head, status_of
from .test_uploads import attempt_of, files_of, is_closed, until_uploading

__all__ = ["files"]

MAKE = Callable[..., Any]
NOBODY = "12345678-1234-4123-8123-123456789abc"
UPLOAD = f"{WORKER}/jobs/{NOBODY}/artifacts/a"
SIZE = 2_400_000
RATE = 800_000

PYTHON = """
import sys, time
url, size, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def slow():
    part, began = rate // 20, time.time()
    for sent in range(part, size + 1, part):
        yield bytes(part)
        time.sleep(max(0, began + sent / rate - time.time()))
"""
URLLIB = """
import urllib.error, urllib.request
headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
try:
    print(urllib.request.urlopen(urllib.request.Request(url, slow(), headers, method="PUT")).status)
except urllib.error.HTTPError as exc:
    print(exc.code, exc.read().decode())
except OSError as exc:
    print(repr(exc))
"""
REQUESTS = """
import requests
answer = requests.put(url, data=slow())
print(answer.status_code, answer.text)
"""
CURL = """
import sys
try:
    for part in slow():
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
except BrokenPipeError:
    pass
"""
PERL = """
use HTTP::Tiny; use Time::HiRes qw(sleep time);
my ($url, $size, $rate) = @ARGV;
my ($sent, $began) = (0, time);
my $answer = HTTP::Tiny->new->request("PUT", $url, {headers => {"content-length" => $size}, content => sub {
    return undef if $sent >= $size;
    my $left = $began + $sent / $rate - time;
    sleep($left) if $left > 0;
    $sent += $rate / 20;
    return "x" x ($rate / 20);
}});
print "$answer->{status} $answer->{content}\\n";
"""


def clients() -> dict[str, list[str]]:
    """Return the command of each client that uploads slowly; the URL, the size and the rate are added to it."""
    python = [sys.executable, "-c"]
    feed = f"{sys.executable} -c '{PYTHON}{CURL}' $1 $2 $3 2> /dev/null | curl -sS -H Expect: -T - $1"
    commands = {
        "urllib": [*python, PYTHON + URLLIB],
        "requests": [*python, PYTHON + REQUESTS],
        "curl": ["sh", "-c", feed, "curl"],
        "perl": ["perl", "-e", PERL],
    }
    for name, needed in (("curl", ["curl", "--version"]), ("perl", ["perl", "-MHTTP::Tiny", "-MTime::HiRes", "-e1"])):
        if shutil.which(name) is None or subprocess.run(needed, capture_output=True, check=False).returncode:
            assert not os.environ.get("CI"), f"{name} is not installed, or lacks a module"
            del commands[name]
    return commands


async def output(*command: str) -> str:
    """Return what a command prints."""
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-2)
    async with asyncio.timeout(40):
        return (await process.communicate())[0].decode()


async def test_slow_uploads_see_why_they_are_refused(serve: Serve) -> None:
    """Real clients that upload slowly see the error of a job that is canceled meanwhile, and no broken pipe."""
    server = await serve()

    async def uploaded(name: str, command: list[str]) -> tuple[str, str]:
        attempt = await attempt_of(server)
        url = f"{server.url}{attempt['artifact_location']}a"
        saying = asyncio.create_task(output(*command, url, str(SIZE), str(RATE)))

        async def begun() -> bool:
            return any(attempt["id"] in str(path) for path in files_of(server))

        await server.until(begun)
        await server.request("POST", f"{COMPOSER}/jobs/{attempt['id']}/cancel")
        return name, await saying

    for name, said in await asyncio.gather(*[uploaded(*client) for client in clients().items()]):
        assert '"reason":"Job is not running"' in said, (name, said)


async def flowing(connection: Connection, seconds: float, size: int = 40_000) -> bool:
    """Send parts of a body until some time is over, and return False if the connection breaks."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection[1].write(bytes(size))
        try:
            await connection[1].drain()
        except ConnectionError:
            return False
        await asyncio.sleep(0.05)
    return not connection[1].is_closing()


async def test_the_rest_may_take_long(serve: Serve, attacker: MAKE) -> None:
    """A client that sends for longer than 10 s after it was refused gets no reset, and then reads the answer."""
    server = await serve()
    size = 50_000_000
    upload = await attacker(server).connect(
        f"PUT {UPLOAD} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
    )
    assert await flowing(upload, 11)
    head_read = await upload[0].readuntil(b"\r\n\r\n")
    assert head_read.split()[1] == b"404"
    assert b"connection: close" in head_read.lower()


@pytest.mark.parametrize("framing", [f"Content-Length: {3 << 20}", "Transfer-Encoding: chunked"])
async def test_the_connection_of_an_early_413(serve: Serve, attacker: MAKE, framing: str) -> None:
    """An early 413 says that the connection is closed, and it is, soon after the client sends no more."""
    server = await serve("--max-body-size", "1MiB")
    submission = await attacker(server).connect(head("POST", f"{COMPOSER}/jobs", framing))
    submission[1].write(b"%x\r\n" % (2 << 20) + bytes(2 << 20))
    answer = await submission[0].readuntil(b"\r\n\r\n")
    assert answer.split()[1] == b"413"
    assert b"connection: close" in answer.lower()
    began = time.monotonic()
    assert await is_closed(submission)
    assert time.monotonic() - began < 6


async def test_the_rest_is_bounded(serve: Serve, attacker: MAKE, client: MAKE) -> None:
    """A client that trickles, or sends more than the bound, is cut off after an early answer; others work meanwhile."""
    server = await serve("--min-rate", "100KiB")
    hostile: Attacker = attacker(server)
    begin = f"PUT {UPLOAD} HTTP/1.1\r\nHost: a\r\nContent-Length: {1 << 30}\r\n\r\n".encode()
    trickling = await hostile.connect(begin)
    flooding = await hostile.connect(begin)
    assert await status_of(trickling) == 404
    assert await status_of(flooding) == 404

    async def trickle() -> float:
        began = time.monotonic()
        while await flowing(trickling, 0.2, 10):
            assert time.monotonic() - began < 15
        return time.monotonic() - began

    async def flood() -> int:
        sent = 0
        while sent < 1 << 30:
            flooding[1].write(bytes(1 << 20))
            try:
                await flooding[1].drain()
            except ConnectionError:
                break
            sent += 1 << 20
        return sent

    quiet: Client = client(server)
    took, sent, _ = await asyncio.gather(trickle(), flood(), quiet.work())
    assert took < 8
    assert 64 << 20 <= sent < 320 << 20
    assert await is_closed(flooding)


async def test_what_is_not_http_is_read_on(serve: Serve, attacker: MAKE) -> None:
    """The answer to a method that is unknown can be read after the whole request was sent, a large body included."""
    server = await serve()
    connection = await attacker(server).connect(head("patch", f"{WORKER}/jobs/{NOBODY}", "Content-Length: 4000000"))
    assert await flowing(connection, 1.5)
    answer = await connection[0].read()
    assert answer.split()[1] == b"405"
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["id"] == "12"


@pytest.mark.parametrize("method", ["PUT", "put"])
async def test_the_rest_over_tls(serve: Serve, files: Files, method: str) -> None:
    """Over TLS too, a client may send on after it was refused, and then reads the answer."""
    server = await serve(*files.server_options)
    context = ssl.create_default_context(cafile=files.ca_file)
    connection = await asyncio.open_connection(*server.address, ssl=context)
    size = 40_000 * 100
    begin = f"{method} {UPLOAD} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
    connection[1].write(begin.encode())
    assert await flowing(connection, 2)
    head_read = await connection[0].readuntil(b"\r\n\r\n")
    assert head_read.split()[1] == (b"404" if method == "PUT" else b"405")
    assert await is_closed(connection, 6)
    connection[1].close()
    assert b"Traceback" not in server.log, server.log.decode()


async def test_what_follows_a_malformed_chunk(serve: Serve, attacker: MAKE) -> None:
    """After a malformed chunk the client may send on too, and reads that its upload is incomplete."""
    server = await serve()
    attempt = await attempt_of(server)
    begin = f"PUT {attempt['artifact_location']}a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = await attacker(server).connect(begin.encode() + b"4\r\nfile\r\n")
    await until_uploading(server, 1)
    connection[1].write(b"no size\r\n")
    assert await flowing(connection, 2)
    answer = await connection[0].read()
    assert answer.split()[1] == b"400"
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["id"] == "24"
    assert b"Traceback" not in server.log, server.log.decode()


async def test_places_are_given_back(serve: Serve, attacker: MAKE, client: MAKE) -> None:
    """A connection that is left after an early answer takes no place any more, whichever side closes it."""
    server = await serve("--max-connections", "8")
    for method in ("PUT", "put"):
        begin = f"{method} {UPLOAD} HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n".encode()
        for _ in range(20):
            hostile: Attacker = attacker(server)
            connection = await hostile.connect(begin + bytes(1000))
            assert await status_of(connection) in (404, 405, 503)  # 503 while the last one is being closed
            await hostile.close()
    quiet: Client = client(server)
    await quiet.work()
    assert b"Traceback" not in server.log, server.log.decode()


EXPECTED = {
    "an unknown token": ("PUT", UPLOAD, (), 5),
    "a bad name": ("PUT", f"{WORKER}/jobs/{NOBODY}/artifacts/.a", (), 23),
    "a result with an unknown token": ("PATCH", f"{WORKER}/jobs/{NOBODY}", (), 5),
    "a large result": ("PATCH", f"{WORKER}/jobs/{NOBODY}", ("size",), 27),
    "a large submission": ("POST", f"{COMPOSER}/jobs", ("size",), 27),
    "a submission of another type": ("POST", f"{COMPOSER}/jobs", ("type",), 3),
    "an encoded submission": ("POST", f"{COMPOSER}/jobs", ("encoding",), 3),
    "an unknown path": ("POST", f"{COMPOSER}/job", (), 11),
}


@pytest.mark.parametrize(("method", "path", "faults", "number"), EXPECTED.values(), ids=EXPECTED)
async def test_refused_without_the_body(
    serve: Serve, attacker: MAKE, method: str, path: str, faults: tuple[str, ...], number: int
) -> None:
    """With `Expect: 100-continue` a request is refused before its body was asked for, and the connection closed."""
    server = await serve("--max-body-size", "1MiB")
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: a",
        "Expect: 100-continue",
        f"Content-Type: {'application/xml' if 'type' in faults else 'application/json'}",
        f"Content-Length: {(2 << 20) if 'size' in faults else 100_000}",
        *(["Content-Encoding: gzip"] if "encoding" in faults else []),
    ]
    connection = await attacker(server).connect("\r\n".join([*lines, "", ""]).encode())
    async with asyncio.timeout(6):
        headers, _, body = (await connection[0].read()).partition(b"\r\n\r\n")
    assert headers.split()[1] != b"100"
    assert json.loads(body)["id"] == str(number)
    assert b"connection: close" in headers.lower()


@pytest.mark.parametrize("fault", ["ended", "digest", "disabled", "size"])
async def test_uploads_refused_without_the_body(serve: Serve, attacker: MAKE, fault: str) -> None:
    """An upload whose attempt has ended, or that cannot be stored, is refused before its body was asked for."""
    server = await serve("--max-artifact-size", "1MiB", *(["--artifacts", "none"] if fault == "disabled" else []))
    attempt = await attempt_of(server)
    if fault == "ended":
        await server.finish(attempt)
    size = (2 << 20) if fault == "size" else 100_000
    digest = "Content-Digest: sha-256=:x:\r\n" if fault == "digest" else ""
    begin = (
        f"PUT {attempt['artifact_location']}a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{digest}"
        f"Content-Length: {size}\r\n\r\n"
    )
    connection = await attacker(server).connect(begin.encode())
    assert await status_of(connection) == {"ended": 409, "digest": 400, "disabled": 400, "size": 413}[fault]


async def test_the_same_large_result_again(serve: Serve, attacker: MAKE) -> None:
    """A result that is repeated with `Expect: 100-continue` is asked for again, and accepted."""
    server = await serve()
    attempt = await attempt_of(server)
    body = json.dumps({"result": "x" * 100_000}).encode()
    for _ in range(2):
        begin = head("PATCH", attempt["location"], "Expect: 100-continue", f"Content-Length: {len(body)}")
        connection = await attacker(server).connect(begin)
        assert (await connection[0].readuntil(b"\r\n\r\n")).split()[1] == b"100"
        connection[1].write(body)
        assert await status_of(connection) == 200
