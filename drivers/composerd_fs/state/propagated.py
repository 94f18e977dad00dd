"""The ends of jobs while they are propagated to dependents, and how far that has come."""

from uuid import UUID

import msgspec

from composerd_fs.state.job import JobRecord


class Propagated(msgspec.Struct, gc=False):
    """An end that was propagated: in one go to all dependents, or to some."""

    whole: int | None
    """The number of dependents that had not ended when the job ended, if all were updated in one go."""
    lowest: UUID | None
    """The dependent that was submitted first of those that were updated; None if all were."""


class Unpropagated(msgspec.Struct, eq=False):
    """A job that has ended, and the range of its dependents to which that is still to be propagated, downwards."""

    job: JobRecord
    needed: int
    """The number of its dependents that had not ended when it ended."""
    below: int
    """The sequence above the highest one. Jobs that are submitted later have not waited for this one."""
    since: int = 0
    """The lowest sequence."""
    waiting: list[JobRecord] = []
    """Those dependents; filled only in a replay."""
    begun: bool = False
    """True if it was propagated to some."""
