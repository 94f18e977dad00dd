"""Checks of requests that wait: leaving one, long ones, many, and equal ones."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator

from composerd.probe import findings
from composerd.probe.findings import Finding, Outcome, wrong
from composerd.probe.target import ARCH, COMPOSER, JSON, WORKER, Target, Unexpected, described, ours
from composerd.probe.wire import Answer, Cut, Wire
from composerd_client.errors import ServerUnreachable

_LEAVES = 3
"""Number of workers that leave in each way: some proxies notice it only sometimes."""

_NOTICED_WITHIN = 1.0
"""Seconds that a server may take to notice that a worker has left."""

_CAPACITY_WAIT = 10.0
"""Seconds that each of many workers waits, unless the long wait is shorter."""

_HEARTBEAT_WITHIN = 5.0
"""Seconds that a heartbeat may take while many workers wait."""

_EQUAL_WAIT = 2.0

_UNNAMED_WAIT = 70.0
"""Most seconds of the wait that does not say how long it is: the long wait finds limits above that."""

_OWN_BOUNDS = "raise --max-waits and --max-connections of the server, or name the proxy in its --trusted-proxies"


async def _ask(target: Target, query: str, **fields: str) -> Wire:
    """Request a job, and return the connection on which the answer will come."""
    wire = await target.open()
    body = json.dumps({"types": [fields.pop("type")], "arch": ARCH, **fields}).encode()
    await wire.send("POST", target.url(f"{WORKER}/jobs{query}"), body, JSON)
    return wire


async def leaving(target: Target) -> AsyncIterator[Finding]:
    """Leave waits with a close and with a reset, then see who gets the next job."""
    for how, ending in (("closes its connection", Wire.close), ("resets its connection", Wire.reset)):
        eaten = sum(await asyncio.gather(*(_is_eaten(target, ending is Wire.reset) for _ in range(_LEAVES))))
        check = f"a waiting worker {how}"
        if eaten:
            seen = f"the server did not notice: {eaten} of {_LEAVES} jobs were handed over to nobody"
            yield wrong(check, seen, findings.LEAVE, target.proxy)
        else:
            yield Finding(check, Outcome.OK, "the server noticed")


async def _is_eaten(target: Target, reset: bool) -> bool:
    """Leave a wait, then submit a job. Return True if the job was handed over all the same."""
    worker_id = str(uuid.uuid4())
    type = target.type(f"leave-{worker_id[:8]}")
    wire = await _ask(target, "?wait=60s", type=type, worker_id=worker_id)
    await _until_seen(target, worker_id)
    if reset:
        wire.reset()
    else:
        await wire.close()
    await asyncio.sleep(_NOTICED_WITHIN)
    job_id = await target.submit(type)
    await asyncio.sleep(0.2)
    return await target.state(job_id) != "ready"


async def _until_seen(target: Target, worker_id: str) -> None:
    """Wait until the server lists a worker, so that its request has arrived; at most 5 s."""
    for _ in range(25):
        listed = await target.must("GET", f"{COMPOSER}/workers?limit=100")
        if any(worker["id"] == worker_id for worker in listed["items"]):
            return
        await asyncio.sleep(0.2)


async def long_wait(target: Target, seconds: float) -> Finding:
    """Wait for as long as is wanted, and see whether the answer is the server's."""
    check = f"a wait of {seconds:g} s"
    began = time.monotonic()
    answer = await _waited(target, f"?wait={round(seconds)}s", seconds + 15)
    after = time.monotonic() - began
    if _is_end_of_wait(answer):
        early = ", which was the server's own decision" if after < seconds - 1 else ""
        return Finding(check, Outcome.OK, f"ended by the server after {after:.1f} s{early}")
    seen = f"after {after:.1f} s: {_said(answer)}"
    if isinstance(answer, Answer) and ours(answer):
        return Finding(check, Outcome.WRONG, seen, "choose a shorter --wait, or raise --max-wait of the server")
    return wrong(check, seen, findings.WAIT, target.proxy)


async def bounded_wait(target: Target, seconds: float) -> Finding:
    """Wait without saying how long, and see whether the server ends that before something in between does."""
    check = "a wait that does not say how long"
    seconds = min(seconds, _UNNAMED_WAIT)
    began = time.monotonic()
    answer = await _waited(target, "", seconds)
    after = time.monotonic() - began
    if _is_end_of_wait(answer):
        return Finding(check, Outcome.OK, f"ended by the server after {after:.1f} s")
    if after >= seconds:
        return Finding(check, Outcome.OK, f"not ended within {after:.0f} s")
    return wrong(check, f"after {after:.1f} s: {_said(answer)}", findings.BOUNDED, target.proxy)


async def _waited(
    target: Target, query: str, within: float, purpose: str = "long", turn: asyncio.Semaphore | None = None
) -> Answer | str:
    """Wait for a job that does not come. Return the answer, or what happened instead.

    With `turn`, connect only when that allows it.
    """
    async with turn or contextlib.nullcontext():
        wire = await _ask(target, query, type=target.type(purpose))
    try:
        async with asyncio.timeout(within):
            return target.look(await wire.answer("POST"))
    except Cut as exc:
        return f"the other side {exc}"
    except TimeoutError:
        return "no answer in time"
    finally:
        await wire.close()


def _is_end_of_wait(answer: Answer | str) -> bool:
    return isinstance(answer, Answer) and answer.status == 204 and ours(answer)


def _said(answer: Answer | str) -> str:
    return described(answer) if isinstance(answer, Answer) else answer


async def many(target: Target, count: int, longest: float) -> AsyncIterator[Finding]:
    """Let many workers wait at the same time, and send heartbeats meanwhile."""
    check = f"{count} workers wait at the same time"
    _, attempt = await target.attempt(target.type("heartbeat"))
    await target.must("GET", attempt["location"])
    opening = asyncio.Semaphore(50)
    wait = min(_CAPACITY_WAIT, longest)

    async def one() -> Answer | str:
        try:
            return await _waited(target, f"?wait={round(wait * 1000)}ms", wait + 5, "many", opening)
        except (ServerUnreachable, ConnectionError) as exc:
            return f"not connected: {exc}"

    waits = [asyncio.create_task(one()) for _ in range(count)]
    await asyncio.sleep(wait / 3)
    slowest, missed = 0.0, 0
    for _ in range(3):
        began = time.monotonic()
        try:
            answer = await target.call("GET", attempt["location"], within=_HEARTBEAT_WITHIN)
            missed += answer.status != 200
        except (Unexpected, ServerUnreachable):
            missed += 1
        slowest = max(slowest, time.monotonic() - began)
    failed = [answer for answer in await asyncio.gather(*waits) if not _is_end_of_wait(answer)]
    if failed:
        seen = f"{count - len(failed)} did; {_said(failed[0])}"
        if isinstance(failed[0], Answer) and ours(failed[0]):
            yield Finding(check, Outcome.WRONG, seen, _OWN_BOUNDS)
        else:
            yield wrong(check, seen, findings.CAPACITY, target.proxy)
    else:
        yield Finding(check, Outcome.OK, "all do")
    check = f"heartbeats while {count} workers wait"
    if missed:
        seen = f"{missed} of 3 were not answered within {_HEARTBEAT_WITHIN:g} s"
        yield wrong(check, seen, findings.CAPACITY, target.proxy)
    else:
        yield Finding(check, Outcome.OK, f"answered within {slowest:.2f} s")


async def equal_waits(target: Target) -> Finding:
    """Wait for the same job three times at the same time: a cache may let one request wait for another."""
    check = "three equal waits for a job"
    job_id = await target.submit(target.type("equal"))
    began = time.monotonic()
    path = f"{COMPOSER}/jobs/{job_id}?wait={_EQUAL_WAIT:g}s"
    await asyncio.gather(*(target.must("GET", path) for _ in range(3)))
    after = time.monotonic() - began
    if after > 1.8 * _EQUAL_WAIT:
        seen = f"answered one after the other: in {after:.1f} s instead of {_EQUAL_WAIT:g} s"
        return wrong(check, seen, findings.SERIAL, target.proxy)
    return Finding(check, Outcome.OK, f"answered together, after {after:.1f} s")
