"""Jobs as the JSON of the composer API: one, or many in slices."""

from collections.abc import Callable, Iterable
from typing import cast

import msgspec

from composerd.http import schemas
from composerd.http.delivery import encode
from composerd.http.paths import bases
from composerd.models import MAX_SHOWN_DEPENDENTS, Job, JobState
from composerd.slices import Slices
from composerd_protocol.times import rfc3339


def job_body(
    job: Job,
    *,
    result: bytes | None | msgspec.UnsetType = msgspec.UNSET,
    listed: bool = False,
) -> schemas.Job:
    """Return a job as its JSON object; in a listing it has no edges, `partial` and `result`.

    `result` is the job's result if the caller has read it. Without it, `result` is null in the object.
    """
    job_id = str(job.id)
    body = schemas.Job(
        kind="Job",
        href=f"{bases.get().composer}/jobs/{job_id}",
        id=job_id,
        type=job.type,
        arch=job.arch,
        channel=job.channel,
        state=job.state,
        priority=job.priority,
        queued_at=rfc3339(job.queued_at),
        not_before=None if job.not_before is None else rfc3339(job.not_before),
        started_at=None if job.started_at is None else rfc3339(job.started_at),
        finished_at=None if job.finished_at is None else rfc3339(job.finished_at),
        retries=job.retries,
        canceled=job.state is JobState.CANCELED,
        worker_id=None if job.worker_id is None else str(job.worker_id),
        idempotency_key=job.idempotency_key,
        expires_at=None if job.expires_at is None else rfc3339(job.expires_at),
    )
    if not listed:
        body.dependencies = schemas.strings(job.dependencies)
        body.dependents = schemas.strings(job.dependents[:MAX_SHOWN_DEPENDENTS])
        body.partial = None if job.partial is None else msgspec.Raw(job.partial)
        body.result = msgspec.Raw(result) if isinstance(result, bytes) else None
    return body


def listed_body(job: Job) -> schemas.Job:
    """Return a job as its JSON object in a listing."""
    return job_body(job, listed=True)


async def encoded(jobs: Iterable[Job], body_of: Callable[[Job], schemas.Job], slices: Slices) -> list[bytes]:
    """Return the JSON of jobs."""
    found: list[bytes] = []
    for job in jobs:
        found.append(encode(body_of(job)))
        await slices.pause()
    return found


def job_list(list_id: str, href: str, items: Iterable[bytes], following: str | None | msgspec.UnsetType) -> bytes:
    """Return the JSON of a list of jobs that are JSON already."""
    raw = cast(list[schemas.Job], [msgspec.Raw(item) for item in items])
    return encode(schemas.JobList(kind="JobList", href=href, id=list_id, items=raw, next=following))
