"""Lists jobs in several states for drivers of contract 1.3 and earlier, which know filters of one state only."""

import msgspec

from composerd.driver.contract import Driver, minor_version
from composerd.models import JobFilter, JobPage

SINCE = 4
"""The minor version of the contract from which on drivers know such filters."""


def known_to(driver: Driver) -> bool:
    """Return True if a driver knows filters of several states."""
    return minor_version(driver) >= SINCE


async def page(driver: Driver, filter: JobFilter, cursor: int | None, limit: int) -> JobPage:
    """Return the jobs of a page in any state that have one of the wanted states: it may be short, or empty."""
    found = await driver.list(msgspec.structs.replace(filter, states=()), cursor, limit)
    return JobPage(tuple(job for job in found.jobs if job.state in filter.states), found.next)
