"""Text that clients, workers and servers choose, in the log and on a terminal; and tokens in the log."""

import asyncio
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from composerd.http.boundary import loggable_path
from composerd.http.errors import ErrorTable
from composerd.http.keys import COMPOSER_ERRORS, WORKER_ERRORS
from composerd.server.logs import JSONFormatter, TextFormatter
from composerd_protocol.escaping import escaped

from ..live.test_cli import composerd
from ..live.test_terminal import Terminal
from ..live.test_terminal import ended as exited
from .conftest import COMPOSER, WORKER, Attacker, Serve, head, status_of
from .test_hostile_server import JOB, TOKEN, Hostile, about, answer, hostile

__all__ = ["hostile"]

EVIL = "\x1b]0;pwned\x07\x9b31m\x7f\u202e\u2028\r\x08[link=http://evil]x\\[bold]"
"""A text that changes the title and the colour of a terminal, goes back in the line, and turns it around."""

ESCAPES = ["\\u001b]0;pwned", "\\u009b31m", "\\u007f", "\\u202e", "\\u2028"]

_OWN = re.compile("\x1b\\[[0-9;?]*[A-Za-z]|[\r\n]")
"""The sequences that the commands themselves send to a terminal: colours, and movements of the cursor."""


def controls(text: str) -> set[str]:
    """Return the control characters in a text, and those that change the direction of text."""
    return {char for char in text if unicodedata.category(char) in ("Cc", "Zl", "Zp") or char in "\u202a\u202e\u2066"}


def test_every_control_character_is_escaped() -> None:
    """No control character of any kind is left, every other one is, and JSON means what it meant before."""
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)]))
    assert controls(escaped(every)) == set()
    kinds = {unicodedata.category(char) for char in every if escaped(char) != char}
    assert kinds == {"Cc", "Cf", "Zl", "Zp"}
    assert json.loads(escaped(json.dumps(every, ensure_ascii=False))) == every
    assert escaped("Grüße, 世界 👩\u200d💻") == "Grüße, 世界 👩\u200d💻"


def fail() -> None:
    """Raise an exception with a message that a client has chosen."""
    raise RuntimeError(f"first\n2026-11-27 ERROR forged{EVIL} {WORKER}/jobs/{TOKEN}/x")


def record(message: str, *values: object, exception: bool = False) -> logging.LogRecord:
    """Return a record of the log, with a traceback if `exception` is set."""
    info = None
    if exception:
        try:
            fail()
        except RuntimeError:
            info = sys.exc_info()
    return logging.LogRecord("a", logging.WARNING, "", 1, message, values, info)


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter()], ids=["text", "json"])
def test_lines_of_the_log(formatter: logging.Formatter) -> None:
    """A message is one line without control characters, and no line of a traceback looks like one of the log."""
    line = formatter.format(record("it failed: %s", f"{EVIL}\n2026-11-27 ERROR forged"))
    assert controls(line) == set()
    assert all(text.replace("\\", "\\\\") in line or text in line for text in ESCAPES)
    lines = formatter.format(record("it failed", exception=True)).split("\n")
    assert controls("".join(lines)) == set()
    assert all(line.startswith(("  ", "{")) for line in lines[1:])
    assert TOKEN not in "".join(lines)
    assert "/jobs/TOKEN/x" in "".join(lines)


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (f"{WORKER}/jobs/{TOKEN}", False),
        (f"{WORKER}/jobs/{TOKEN.upper()}/artifacts/a", False),
        (f"{WORKER}//jobs//{TOKEN}", False),
        (f"http://h:1/prefix/jobs/{TOKEN}?wait=1s", False),
        (f"{COMPOSER}/jobs/{JOB}", True),
    ],
)
def test_tokens_in_lines_of_the_log(path: str, logged: bool) -> None:
    """The log has no token, wherever a line got it from, but it has ids of jobs."""
    for formatter in (TextFormatter(), JSONFormatter()):
        line = formatter.format(record("cannot reach %s", path))
        assert (path in line) is logged
        assert TOKEN not in line.lower()


UNMATCHED = [
    f"/api/worker/v1/jobs/{TOKEN}/nothing",
    f"/api/worker/v1/{TOKEN}",
    f"/elsewhere/{TOKEN.upper()}",
    f"/api/worker/v1/jobs%2F{TOKEN}",
    f"/api/worker/v1/jobs/{TOKEN}%0Aforged%1B[31m%C2%9B%E2%80%AE",
    f"/api/composer/v1/../../worker/v1/jobs/{TOKEN}",
]


@pytest.mark.parametrize("path", UNMATCHED)
def test_paths_that_match_no_route(path: str) -> None:
    """The path of a failed request has no token, whatever it matched."""
    app = web.Application()
    app[WORKER_ERRORS] = ErrorTable.worker(WORKER)
    app[COMPOSER_ERRORS] = ErrorTable.composer(COMPOSER)
    line = TextFormatter().format(record("%s failed", loggable_path(make_mocked_request("GET", path, app=app))))
    assert TOKEN not in line.lower()
    assert controls(line) == set()


@pytest.mark.parametrize("form", ["text", "json"])
async def test_tokens_in_the_log_of_a_server(serve: Serve, attacker: Callable[..., Attacker], form: str) -> None:
    """A request that fails before a route is known, or has none, leaves no token and no control character behind."""
    server = await serve("--max-connections", "1", "--log-format", form, storage="memory:")
    held = attacker(server)
    for _ in range(3):
        await held.connect()
    for number, path in enumerate(UNMATCHED, 2):
        await status_of(await attacker(server, f"127.0.9.{number}").connect(head("DELETE", path)))
    server.kill(15)
    await server.exited()
    log = server.log.decode()
    assert TOKEN not in log.lower()
    assert controls(log) <= {"\n"}


async def test_a_terminal(hostile: Hostile) -> None:
    """Commands print types, reasons, progress and results of others without control characters and without markup."""
    times = ("queued_at", "not_before", "started_at", "finished_at", "expires_at")
    job: dict[str, Any] = dict.fromkeys(times, "2026-01-31T12:00:00.000000Z")
    path = f"{COMPOSER}/jobs/{JOB}"
    job |= {"kind": "Job", "href": path, "id": JOB, "type": EVIL, "arch": EVIL, "channel": EVIL, "state": "failed"}
    job |= {"worker_id": EVIL, "idempotency_key": EVIL, "retries": 1, "canceled": False}
    job |= {"priority": 0, "dependencies": [EVIL], "partial": {EVIL: EVIL}}
    job |= {"result": {EVIL: EVIL, "job_error": {"id": 1, "reason": EVIL}}}
    raw = json.dumps(job, ensure_ascii=False).encode()
    why = about("JobWhy", f"{path}/why", JOB, state=EVIL, reason=EVIL, blocked_by=[EVIL], delayed_until=None)
    listing = about("JobList", f"{COMPOSER}/jobs", "jobs", items=[{**job, "state": EVIL}])
    hostile.replies[f"GET {COMPOSER}/jobs"] = answer(listing)
    hostile.replies[f"GET {COMPOSER}/jobs/"] = answer(raw)
    hostile.replies[f"GET {path}/why"] = answer({**why, "workers": None, "ahead": None})
    hostile.offer("a\u202eb")
    commands = [["jobs"], ["wait", JOB], ["artifacts", JOB], ["status", JOB, "--json"]]
    terminals = [Terminal(hostile, *command) for command in commands]  # type: ignore[arg-type]  # it needs the URL only
    await asyncio.gather(*(exited(terminal) for terminal in terminals))
    for command, terminal in zip([*commands, ["why", JOB]], [*terminals, None], strict=True):
        if terminal is not None:
            own = _OWN.sub("", terminal.raw)
            assert controls(own) == set(), command
            assert "evil\x1b\\" not in terminal.raw, "no hyperlink"
            assert ("a\\u202eb" if command[0] == "artifacts" else "pwned") in own
        piped = await composerd(*command, "--server", hostile.url)
        assert controls(piped.err) <= {"\n"}, command
        if terminal is not None and "--json" in command:
            assert piped.out.encode().startswith(raw)
            assert json.loads(terminal.shown.split("\r\n")[0]) == job
        else:
            assert controls(piped.out) <= {"\n", "\t"}, command


async def test_errors_of_a_hostile_server(hostile: Hostile) -> None:
    """A server's reason is printed as one line without control characters."""
    hostile.replies["GET"] = answer(_error(EVIL, details={EVIL: EVIL}), 400)
    ended = await composerd("status", JOB, "--server", hostile.url)
    assert ended.code == 1
    assert controls(ended.err) == {"\n"}
    assert ended.err.count("\n") == 1
    assert all(text in ended.err for text in ESCAPES)


async def test_the_log_of_a_worker(hostile: Hostile) -> None:
    """`composerd worker` logs what a server sends without control characters, and no token, also in tracebacks."""
    hostile.assign(id=EVIL)
    location = f"PATCH {WORKER}/jobs/{TOKEN}"
    hostile.replies[location] = answer(_error(f"{EVIL} {WORKER}/jobs/{TOKEN}\nforged"), 400)
    ended = await composerd("worker", "--once", "--type", "a", "--server", hostile.url, "--", "true")
    assert "result not accepted" in ended.err
    assert controls(ended.err) == {"\n"}
    assert all(re.match(r"\d{4}-|  ", line) for line in ended.err.splitlines())
    assert TOKEN not in ended.err


def _error(reason: str, **fields: Any) -> dict[str, Any]:
    """Return an error as composerd answers it."""
    return about("Error", "", "1", reason=reason, operation_id="ID", **fields)
