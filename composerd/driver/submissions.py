"""Plans a submission before anything of it is stored: known ids, idempotency keys and dependencies. No I/O."""

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple
from uuid import UUID

from composerd.driver.records import StoredJobView
from composerd.errors import CanceledDependency, IdempotencyConflict, UnknownDependency
from composerd.models import JobState, NewJob


class PlannedJob(NamedTuple):
    """A job of a submission that is to be stored."""

    job: NewJob
    dependencies: tuple[UUID, ...]
    """As submitted, with the existing job in the place of each that its idempotency key identified as that one."""


class Plan(NamedTuple):
    """Result of planning a submission."""

    new: Sequence[PlannedJob]
    """The jobs to store, in the order of the submission."""
    answer: Sequence[tuple[UUID, bool]]
    """For each job of the submission, the id of the job that stands for it, and True if the submission created it."""


def plan(
    submission: Sequence[NewJob],
    find: Callable[[UUID], StoredJobView | None],
    find_key: Callable[[str, str], StoredJobView | None],
) -> Plan:
    """Decide what a submission stores and what it is answered (E3 to E9, E12). It changes nothing.

    `planned_in_steps` does the same in steps, for those who cannot wait until it is done.

    Args:
        submission: The jobs; one may depend on an earlier one of the same submission.
        find: Returns a stored job by its id.
        find_key: Returns a stored job by its channel and its idempotency key.

    Raises:
        UnknownDependency: A dependency neither is stored in the channel of the job that names it, nor comes earlier in
            the submission with that channel (details `index`, `id`).
        CanceledDependency: A dependency has been canceled (details `index`, `id`).
        IdempotencyConflict: A key was used for something else (details `index`).
    """
    steps = planned_in_steps(submission, find, find_key)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            planned: Plan = stop.value
            return planned


def planned_in_steps(
    submission: Sequence[NewJob],
    find: Callable[[UUID], StoredJobView | None],
    find_key: Callable[[str, str], StoredJobView | None],
) -> Generator[int, None, Plan]:
    """Do what `plan` does, and yield after each job the number of jobs and dependencies that it has looked at."""
    new: dict[UUID, PlannedJob] = {}
    keys: dict[tuple[str, str], UUID] = {}
    replaced: dict[UUID, UUID] = {}
    answer: list[tuple[UUID, bool]] = []
    for index, job in enumerate(submission):
        if index:
            yield 1 + len(submission[index - 1].dependencies)
        if job.id in new or find(job.id) is not None:
            answer.append((job.id, True))  # a repetition: it was created by the first one
            continue
        dependencies = job.dependencies
        if replaced:
            dependencies = tuple([replaced.get(one, one) for one in dependencies])
        if job.idempotency_key is not None:
            key = (job.channel, job.idempotency_key)
            existing = _existing(key, new, keys, find_key)
            if existing is not None:
                existing_id, *submitted = existing
                if submitted != [job.fingerprint, dependencies]:
                    raise IdempotencyConflict(index=index)
                replaced[job.id] = existing_id
                answer.append((existing_id, False))
                continue
            keys[key] = job.id
        if dependencies:
            _check_dependencies(index, job.channel, dependencies, new, find)
        new[job.id] = PlannedJob(job, dependencies)
        answer.append((job.id, True))
    return Plan(list(new.values()), answer)


def _existing(
    key: tuple[str, str],
    new: dict[UUID, PlannedJob],
    keys: dict[tuple[str, str], UUID],
    find_key: Callable[[str, str], StoredJobView | None],
) -> tuple[UUID, bytes, tuple[UUID, ...]] | None:
    stored = find_key(*key)
    if stored is not None:
        return stored.id, bytes(stored.fingerprint), tuple(stored.dependencies)
    if key not in keys:
        return None
    earlier = new[keys[key]]
    return earlier.job.id, earlier.job.fingerprint, earlier.dependencies


def _check_dependencies(
    index: int,
    channel: str,
    dependencies: tuple[UUID, ...],
    new: dict[UUID, PlannedJob],
    find: Callable[[UUID], StoredJobView | None],
) -> None:
    for one in dependencies:
        earlier = new.get(one)
        if earlier is not None and earlier.job.channel == channel:
            continue
        dependency = find(one)
        if dependency is None or dependency.channel != channel:  # it is told nothing about another channel's job
            raise UnknownDependency(index=index, id=str(one))
        if dependency.state is JobState.CANCELED:
            raise CanceledDependency(index=index, id=str(one))
