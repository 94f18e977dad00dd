"""The order of the checks. Jobs of the probe are removed at its end, however it ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import msgspec

from composerd.probe import answers, findings, uploads, waiting
from composerd.probe.findings import Finding, Outcome
from composerd.probe.target import FAILURES, Target, failure

_LONGEST = 500
"""The most characters that are shown of what a check has seen, in which there may be words of the server."""


class Options(NamedTuple):
    """Extent of a probe."""

    wait: float
    """Seconds of the long wait."""
    waiters: int
    """Number of workers that wait at the same time."""
    size: int
    """Bytes of each slow upload."""


_SINGLES: dict[str, Callable[[Target], Awaitable[Finding]]] = {
    "paths in answers": answers.prefix,
    "two requests on one connection": answers.keep_alive,
    "nothing is answered from a cache": answers.repeats,
    "three equal waits for a job": waiting.equal_waits,
    "args of 1.5 MiB": uploads.large_body,
}
"""The checks that are made one after the other, by the name that a check has if it fails with an exception."""


async def probe(target: Target, options: Options, report: Callable[[Finding], None]) -> bool:
    """Run all checks, report each finding when it is there, and return True if nothing is wrong.

    Raises `ServerUnreachable` if there is nothing at the URL.
    """
    found = True

    def add(finding: Finding) -> None:
        nonlocal found
        found = found and finding.outcome is not Outcome.WRONG
        report(msgspec.structs.replace(finding, seen=finding.seen[:_LONGEST]))

    async def run(name: str, check: AsyncIterator[Finding]) -> None:
        try:
            async for finding in check:
                add(finding)
        except FAILURES as exc:
            add(Finding(name, Outcome.WRONG, failure(exc), findings.OURS.general))

    await answers.recognise(target)
    await run("the answers are composerd's", _one(answers.whose, target))
    await run("the server lets the probe do its work", answers.refused(target))
    if not found:
        return False
    try:
        with_uploads = await uploads.accepted(target)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run("a long wait", _one(waiting.long_wait, target, options.wait)))
            bounded = _one(waiting.bounded_wait, target, options.wait)
            tasks.create_task(run("a wait that does not say how long", bounded))
            slow = tasks.create_task(run("slow uploads", uploads.slow(target, options.size))) if with_uploads else None
            await run("workers that leave", waiting.leaving(target))
            for name, check in _SINGLES.items():
                await run(name, _one(check, target))
            if slow is None:
                add(Finding("uploads", Outcome.OK, "not tried, because the server accepts no artifacts"))
            else:
                await run("Expect: 100-continue", _one(uploads.expecting, target))
                await run("cut uploads", uploads.cut(target))
                await slow  # many workers may take all that a proxy has
            await run("many workers", waiting.many(target, options.waiters, options.wait))
    finally:
        left = await asyncio.shield(target.remove_jobs())
    if left:
        change = "delete the jobs whose types begin with composerd-probe-"
        add(Finding("the probe removes its jobs", Outcome.WRONG, f"{left} may be left", change))
    return found


async def _one(check: Callable[..., object], *arguments: object) -> AsyncIterator[Finding]:
    yield await check(*arguments)  # type: ignore[misc]
