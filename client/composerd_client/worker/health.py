"""Keeps a worker from requesting jobs on a machine that cannot run them, and says why."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
"""Seconds of the first pause after a local fault; each following one is twice as long, and partly random."""

LONGEST_PAUSE = 60.0
"""Seconds of the longest pause."""

FRESH = 1.0
"""Seconds for which the checks count for all requests for jobs."""

_SAY_EVERY = 60.0
"""Seconds between two lines in the log about pauses."""

HealthCheck = Callable[[], Awaitable[str | None]]
"""Returns a sentence that says why this machine cannot run jobs now, or None if it can."""


class Health:
    """The health of one worker's machine.

    A problem that a check finds, and a local fault of a job, begin a pause. `report` is told of each problem, and with
    None that there is none any more.
    """

    def __init__(self, checks: Sequence[HealthCheck], report: Callable[[str | None], Awaitable[None]]) -> None:
        self.problem: str | None = None
        """The sentence that says why no jobs are requested; None while they are."""
        self._checks = checks
        self._report = report
        self._turn = asyncio.Lock()
        self._checked_at = -math.inf
        self._pause = FIRST_PAUSE
        self._paused_until = -math.inf
        self._fault_at = -math.inf
        self._said_at = -math.inf
        self._said = False

    async def until_healthy(self) -> None:
        """Return once jobs can be run: when the latest pause is over, and no check finds a problem.

        Several callers share the checks.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            while True:
                await asyncio.sleep(max(0.0, self._paused_until - loop.time()))
                if self.problem is None and loop.time() - self._checked_at < FRESH:
                    return
                began = loop.time()
                problem = await self._found()
                if problem is None:
                    break
                await self._begin_pause(problem)
            self._checked_at = began
            if self.problem is not None:
                await self._end_pause()

    async def fault(self, problem: str) -> None:
        """Begin a pause, because a job could not be run on this machine."""
        now = asyncio.get_running_loop().time()
        self._fault_at = now
        if now >= self._paused_until:  # otherwise another job has met the same
            await self._begin_pause(problem)

    def worked(self, began: float) -> None:
        """Note that a job that began then was run."""
        if began > self._fault_at:
            self._pause = FIRST_PAUSE

    async def _found(self) -> str | None:
        for check in self._checks:
            try:
                problem = await check()
            except Exception as exc:  # noqa: BLE001  # of a function that the user of the library wrote
                problem = f"{type(exc).__name__}: {exc}"
            if problem is not None:
                return problem
        return None

    async def _begin_pause(self, problem: str) -> None:
        now = asyncio.get_running_loop().time()
        self.problem = problem
        pause = self._pause * random.uniform(0.5, 1.0)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._paused_until = now + pause
        if now - self._said_at >= _SAY_EVERY:
            self._said_at, self._said = now, True
            log.warning("no jobs are requested, because this machine cannot run them: %s", problem)
        await self._report(problem)

    async def _end_pause(self) -> None:
        self.problem = None
        if self._said:
            self._said = False
            log.info("jobs are requested again")
        await self._report(None)
