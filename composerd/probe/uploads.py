"""Checks of uploads: slow ones, cut ones, large ones, and those that wait for `100 Continue`."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

from composerd.probe import findings
from composerd.probe.findings import Finding, Outcome, wrong
from composerd.probe.target import COMPOSER, FAILURES, Target, Unexpected, decoded, described, ours
from composerd.probe.wire import Answer, Cut, Wire, ending

_PACE = 0.5
"""Seconds between two parts of a slow upload."""

_SLOW_PARTS = 120
"""Number of parts that a slow upload has at most, before its rest is sent at once."""

_CONTINUE_WITHIN = 3.0
"""Seconds that `100 Continue` may take."""

_NOT_ACCEPTED = "26"
"""The error of a server that accepts no artifacts."""

_PART = 64 * 1024
_CUT_SIZE = 2 * 1024**2
_BYTES = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
_FRAMINGS = {"with a length": False, "in chunks": True}


class _Upload:
    """An upload whose parts a check sends when it wants to."""

    def __init__(self, target: Target, wire: Wire, chunked: bool, size: int) -> None:
        self._target = target
        self._wire = wire
        self._chunked = chunked
        self.left = size
        self.answering = asyncio.create_task(self._answer())

    @classmethod
    async def begin(cls, target: Target, location: str, name: str, chunked: bool, size: int) -> "_Upload":
        wire = await target.open()
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
        await wire.send("PUT", target.url(location + name), b"", {**_BYTES, **framing})
        return cls(target, wire, chunked, size)

    async def _answer(self) -> Answer | str:
        """Return the answer, or what happened instead."""
        try:
            return self._target.look(await self._wire.answer("PUT"))
        except Cut as exc:
            return f"the other side {exc}"

    async def send(self, size: int) -> None:
        """Send a part of the data, and the end of the body after the last one. Errors are seen in the answer."""
        size = min(size, self.left)
        self.left -= size
        data = bytes(size)
        if self._chunked and size:
            data = b"%x\r\n%b\r\n" % (size, data) + (b"" if self.left else b"0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await self._wire.write(data)

    async def close(self, *, reset: bool = False) -> None:
        """End the connection, wherever the upload is."""
        if reset:
            self._wire.reset()
        else:
            await self._wire.close()
        self.answering.cancel()

    def end(self) -> None:
        """Say that nothing more is sent."""
        self._wire.end()


async def accepted(target: Target) -> bool:
    """Return False if the server says that it accepts no artifacts."""
    try:
        _, attempt = await target.attempt(target.type("accepted"))
        answer = await target.call("PUT", attempt["artifact_location"] + "disk")
    except FAILURES:
        return True  # the checks will say why
    error = decoded(answer)
    return not (ours(answer) and isinstance(error, dict) and error.get("id") == _NOT_ACCEPTED)


async def slow(target: Target, size: int) -> AsyncIterator[Finding]:
    """Upload slowly, with a length and in chunks, and see whether the first bytes reach the server before the last.

    An attempt that its worker has not confirmed goes back to the queue after a time, which an attempt without any
    upload shows. If the job of the upload is still running then, the server has seen the upload begin.
    """
    uploads: dict[str, tuple[str, dict[str, Any], _Upload]] = {}
    try:
        for framing, chunked in _FRAMINGS.items():
            job_id, attempt = await target.attempt(target.type(f"upload-{int(chunked)}"))
            upload = await _Upload.begin(target, attempt["artifact_location"], "disk", chunked, size)
            uploads[framing] = job_id, attempt, upload
        control, _ = await target.attempt(target.type("silent"))
        began = time.monotonic()
        part = max(1, min(_PART, size // (2 * _SLOW_PARTS)))
        for _ in range(_SLOW_PARTS):
            if all(upload.answering.done() for _, _, upload in uploads.values()):
                break
            for _, _, upload in uploads.values():
                if not upload.answering.done():
                    await upload.send(part)
            await asyncio.sleep(_PACE)
            if await target.state(control) == "ready":
                break
        took = time.monotonic() - began
        states = {framing: await target.state(job_id) for framing, (job_id, _, _) in uploads.items()}
        for framing, (job_id, attempt, upload) in uploads.items():
            async for finding in _ended(target, framing, states[framing], took, job_id, attempt, upload, size):
                yield finding
    finally:
        for _, _, upload in uploads.values():
            await upload.close()


async def _ended(
    target: Target,
    framing: str,
    state: str,
    took: float,
    job_id: str,
    attempt: dict[str, Any],
    upload: _Upload,
    size: int,
) -> AsyncIterator[Finding]:
    """Send the rest of an upload, and judge it."""
    check = f"an upload {framing}, slow for {took:.0f} s"
    if upload.answering.done():
        answer = upload.answering.result()
        if isinstance(answer, Answer) and answer.status == 413:
            yield wrong(check, described(answer), _own_limit(answer), target.proxy)
        else:
            seen = described(answer) if isinstance(answer, Answer) else answer
            yield wrong(check, f"ended early: {seen}", findings.SLOW_UPLOAD, target.proxy)
        return
    while upload.left and not upload.answering.done():
        await upload.send(16 * _PART)
    try:
        async with asyncio.timeout(60):
            answer = await upload.answering
    except TimeoutError:
        answer = "no answer within 60 s after the last byte"
    if isinstance(answer, Answer) and answer.status == 413:
        yield wrong(check, described(answer), _own_limit(answer), target.proxy)
        return
    if state != "running":
        yield wrong(check, "did not reach the server while it was sent", findings.BUFFERING, target.proxy)
        return
    if isinstance(answer, str) or answer.status != 200 or not ours(answer):
        seen = answer if isinstance(answer, str) else described(answer)
        yield wrong(check, seen, findings.SLOW_UPLOAD, target.proxy)
        return
    await target.must("PATCH", attempt["location"], {"result": None})
    path = f"{COMPOSER}/jobs/{job_id}/artifacts"
    stored = (await target.must("GET", path))["items"]
    downloaded = await target.call("GET", f"{path}/disk", within=60)
    whole = hashlib.sha256(bytes(size)).hexdigest()
    if [(one["size"], one["sha256"]) for one in stored] != [(size, whole)]:
        yield wrong(check, f"not stored as sent: {stored}", findings.CUT_UPLOAD, target.proxy)
    elif hashlib.sha256(downloaded.body).hexdigest() != whole:
        yield wrong(check, f"downloaded {len(downloaded.body)} of {size} bytes", findings.CACHE, target.proxy)
    else:
        yield Finding(check, Outcome.OK, "reached the server while it was sent, and was stored and downloaded whole")


def _own_limit(answer: Answer) -> findings.Advice:
    """Return the advice for an upload that is too large, for the server or for a proxy."""
    return findings.Advice("raise --max-artifact-size, or choose a smaller --size") if ours(answer) else findings.SIZE


async def cut(target: Target) -> AsyncIterator[Finding]:
    """Cut uploads in the middle. None of them may be stored, or answered as if it were."""
    job_id, attempt = await target.attempt(target.type("cut"))
    location = attempt["artifact_location"]
    await target.must("GET", attempt["location"])
    for chunked in _FRAMINGS.values():
        for how, reset in (("closed", False), ("reset", True)):
            upload = await _Upload.begin(target, location, f"{how}-{int(chunked)}", chunked, _CUT_SIZE)
            await upload.send(_CUT_SIZE // 2)
            await asyncio.sleep(0.2)
            await upload.close(reset=reset)
    halves = {}
    for name, size in (("half", _CUT_SIZE // 2), ("whole", _CUT_SIZE)):
        upload = await _Upload.begin(target, location, f"ended-{name}", False, _CUT_SIZE)
        await upload.send(size)
        upload.end()
        halves[name] = await _within(upload, 5.0)
        await upload.close()
    await asyncio.sleep(0.5)
    await target.must("PATCH", attempt["location"], {"result": None})
    listed = await target.must("GET", f"{COMPOSER}/jobs/{job_id}/artifacts")
    stored = {one["name"] for one in listed["items"]}
    wrongly = stored - {"ended-whole"}
    check = "uploads that are cut"
    if wrongly:
        yield wrong(check, f"{len(wrongly)} of 5 were stored: {sorted(wrongly)}", findings.CUT_UPLOAD, target.proxy)
    else:
        yield Finding(check, Outcome.OK, "none of 5 was stored")
    check = "uploads after which the client closes its side"
    false = [name for name, answer in halves.items() if answer and f"ended-{name}" not in stored]
    if false:
        seen = f"{len(false)} of 2 were answered with success and are not stored"
        yield wrong(check, seen, findings.HALF_CLOSED, target.proxy)
    else:
        yield Finding(check, Outcome.OK, "each that was answered with success is stored")


async def _within(upload: _Upload, seconds: float) -> bool:
    """Return True if an upload is answered with success within a time."""
    await asyncio.wait([upload.answering], timeout=seconds)
    answer = upload.answering.result() if upload.answering.done() else ""
    return isinstance(answer, Answer) and answer.status < 300


async def expecting(target: Target) -> Finding:
    """Upload with `Expect: 100-continue`."""
    check = "Expect: 100-continue"
    _, attempt = await target.attempt(target.type("expect"))
    wire = await target.open()
    try:
        headers = {**_BYTES, "Content-Length": "4", "Expect": "100-continue"}
        await wire.send("PUT", target.url(attempt["artifact_location"] + "disk"), b"", headers)
        answering = asyncio.create_task(wire.answer("PUT"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONTINUE_WITHIN):
                await wire.continued.wait()
        continued = wire.continued.is_set()
        if not answering.done():
            await wire.write(b"data")
        async with asyncio.timeout(10):
            answer = target.look(await answering)
    except (Cut, ConnectionError) as exc:
        return wrong(check, f"the other side {ending(exc)}", findings.EXPECT, target.proxy)
    except TimeoutError:
        return wrong(check, "no answer within 10 s", findings.EXPECT, target.proxy)
    finally:
        await wire.close()
    if answer.status != 200 or not ours(answer):
        return wrong(check, described(answer), findings.EXPECT, target.proxy)
    if not continued:
        seen = f"no 100 within {_CONTINUE_WITHIN:g} s: clients wait for it before they send"
        return wrong(check, seen, findings.EXPECT, target.proxy)
    return Finding(check, Outcome.OK, "answered with 100")


async def large_body(target: Target) -> Finding:
    """Submit a job with args of more than 1 MiB."""
    check = "args of 1.5 MiB"
    try:
        await target.submit(target.type("large"), args="x" * (3 << 19))
    except Unexpected as exc:
        return wrong(check, str(exc), findings.SIZE, target.proxy)
    return Finding(check, Outcome.OK, "accepted")
