"""Checks of single requests: whose the answers are, what a cache keeps, and whether a prefix is known."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from composerd.errors import NO_CREDENTIALS
from composerd.probe import findings
from composerd.probe.findings import CREDENTIALS, Finding, Outcome, wrong
from composerd.probe.target import ARCH, COMPOSER, WORKER, Target, advised, decoded, described, ours
from composerd.probe.wire import Cut, ending
from composerd_client.answers import REQUEST_ID_HEADER


async def whose(target: Target) -> Finding:
    """See whether the answers of both APIs are composerd's."""
    check = "the answers are composerd's"
    for base in (WORKER, COMPOSER):
        answer = await target.call("GET", f"{base}/status")
        if answer.status != 200 or not ours(answer):
            seen = f"GET {base}/status: {described(answer)}"
            if ours(answer):
                return Finding(check, Outcome.WRONG, seen, "compare the URL with the --base-path of the server")
            return Finding(check, Outcome.WRONG, seen, advised(answer))
    return Finding(check, Outcome.OK, "both APIs answer")


async def refused(target: Target) -> AsyncIterator[Finding]:
    """Yield a finding if the server does not take the probe for an administrator.

    Only administrators may submit jobs and work on them, as the probe does.
    """
    check = "the server lets the probe do its work"
    change = "name the token of an admin with --token-file: a probe submits jobs, and works on them"
    answer = await target.call("GET", f"{COMPOSER}/whoami")
    said = decoded(answer) if ours(answer) else None
    if not isinstance(said, dict):
        return
    role = said.get("role")
    if answer.status == 200 and isinstance(role, str) and role != "admin":
        yield Finding(check, Outcome.WRONG, f"it takes the probe for a {role}", change)
    elif answer.status in (400, 401, 403):
        details = said.get("details")
        problem = details.get("problem") if isinstance(details, dict) else None
        seen = f"{described(answer)}: {problem}"
        if target.has_token and problem == NO_CREDENTIALS:
            yield wrong(check, seen, CREDENTIALS, target.proxy)
        else:
            yield Finding(check, Outcome.WRONG, seen, change)


async def recognise(target: Target) -> None:
    """Send something that is not HTTP, which proxies answer themselves: that tells which one it is."""
    with contextlib.suppress(Cut, ConnectionError, TimeoutError):
        wire = await target.open()
        try:
            async with asyncio.timeout(5):
                await wire.write(b"PROBE\r\n\r\n")
                target.look(await wire.answer())
        finally:
            await wire.close()


async def repeats(target: Target) -> Finding:
    """Ask twice for what a cache could keep: the state of a job, a heartbeat, and the news of a cancel."""
    check = "nothing is answered from a cache"
    type = target.type("cache")
    job_id = await target.submit(type)
    shown = f"{COMPOSER}/jobs/{job_id}"
    states = [await target.state(job_id)]
    attempt = await target.must("POST", f"{WORKER}/jobs?wait=10s", {"types": [type], "arch": ARCH, "confirm": True})
    heartbeats = [await target.call("GET", attempt["location"]) for _ in range(2)]
    states.append(await target.state(job_id))
    await target.must("POST", f"{shown}/cancel", {})
    states.append(await target.state(job_id))
    canceled = (await target.must("GET", attempt["location"]))["canceled"]
    if states != ["ready", "running", "canceled"]:
        return wrong(check, f"the states of a job were {', '.join(states)}", findings.CACHE, target.proxy)
    if heartbeats[0].headers.get(REQUEST_ID_HEADER) == heartbeats[1].headers.get(REQUEST_ID_HEADER):
        return wrong(check, "the second heartbeat did not reach the server", findings.CACHE, target.proxy)
    if not canceled:
        return wrong(check, "a worker was not told of the cancel", findings.CACHE, target.proxy)
    return Finding(check, Outcome.OK, "heartbeats, states and a cancel came from the server")


async def keep_alive(target: Target) -> Finding:
    """Send two requests on one connection."""
    check = "two requests on one connection"
    url = target.url(f"{WORKER}/status")
    wire = await target.open()
    try:
        async with asyncio.timeout(10):
            await wire.send("GET", url, b"", {})
            first = await wire.answer()
            if first.closes:
                return Finding(check, Outcome.NOTE, "each request needs a connection", findings.KEEP_ALIVE.general)
            await wire.send("GET", url, b"", {})
            await wire.answer()
    except (Cut, ConnectionError) as exc:
        seen = f"only one was answered: the other side {ending(exc)}"
        return wrong(check, seen, findings.KEEP_ALIVE, target.proxy)
    except TimeoutError:
        return wrong(check, "not both were answered within 10 s", findings.KEEP_ALIVE, target.proxy)
    finally:
        await wire.close()
    return Finding(check, Outcome.OK, "both answered")


async def prefix(target: Target) -> Finding:
    """See whether the paths that the server names are right below the prefix of the URL."""
    check = "paths in answers"
    _, attempt = await target.attempt(target.type("prefix"))
    location = attempt["location"]
    await target.must("GET", location)
    expected = target.url(f"{WORKER}/").raw_path
    if not location.startswith(expected):
        seen = f"the server names {location.rpartition('/')[0]}/…, and the URL needs {expected}"
        return wrong(check, seen, findings.PREFIX, target.proxy)
    return Finding(check, Outcome.OK, f"begin with {expected}")
