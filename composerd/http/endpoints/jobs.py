"""The composer API: submitting jobs, following them, canceling them. Pages of jobs are in `listings`."""

from functools import partial
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec.structs import replace

from composerd.errors import (
    CanceledDependency,
    IdempotencyConflict,
    UnknownDependency,
)
from composerd.http import schemas
from composerd.http.arguments import job_of, segment, wait_of
from composerd.http.bodies import IN_A_THREAD, discard_body, off_loop, read_json
from composerd.http.delivery import answer_bytes, answer_pieces, encode
from composerd.http.endpoints import submission
from composerd.http.endpoints.shown import encoded, job_body, job_list
from composerd.http.inspection import Wait
from composerd.http.keys import IDENTIFIER, QUEUE, SETTINGS
from composerd.http.openapi import JSON, endpoint
from composerd.http.outlines import check_batch, check_job
from composerd.http.paths import BASES, bases
from composerd.http.request_context import client, identity
from composerd.http.tenant_quotas import check_submission, open_wait
from composerd.http.turns import TURNS, heavy, is_heavy
from composerd.ids import new_id_text
from composerd.models import Job, JobState, PayloadKind
from composerd.queue import SMALL, Lookup, Piece, Stored, explain
from composerd.slices import Slices
from composerd_protocol.times import rfc3339

_SUBMIT_JOB = msgspec.json.Decoder(schemas.SubmitJob)
_SUBMIT_JOBS = msgspec.json.Decoder(schemas.SubmitJobs)


def add_routes(app: web.Application) -> None:
    """Add the routes of the composer API."""
    base = app[BASES].composer
    app.router.add_post(f"{base}/jobs", submit_job)
    app.router.add_post(f"{base}/jobs/batch", submit_jobs)
    job = f"{base}/jobs/{{id:(?!batch$)[^/]+}}"  # not `batch`, whose 405 must not name these methods
    of_job = f"{base}/jobs/{segment('id')}"
    app.router.add_get(job, get_job)
    app.router.add_get(f"{of_job}/args", get_job_args)
    app.router.add_get(f"{of_job}/result", get_job_result)
    app.router.add_post(f"{of_job}/cancel", cancel_job)
    app.router.add_delete(job, delete_job)
    app.router.add_get(f"{of_job}/why", why_job)


@endpoint(
    "submitJob",
    "Submit a job",
    description="Store a job. With an `idempotency_key`, a repetition of the request gets the job that exists.",
    request=schemas.SubmitJob,
    responses={201: ("The job is stored", schemas.Job), 200: ("The existing job of the idempotency key", schemas.Job)},
)
async def submit_job(request: web.Request) -> web.StreamResponse:
    """Store one job.

    The answer is 201 with the job, or 200 with the existing job of its idempotency key. The errors of a submission name
    no index, because there is one job only.
    """
    queue = request.app[QUEUE]
    await check_submission(queue)
    body = await read_json(request, _SUBMIT_JOB, queue.budgets.submissions, check_job)
    new = await off_loop(
        _size(request), partial(submission.one, settings=request.app[SETTINGS], submitter=identity.get()), body
    )
    del body  # the args are a copy of their part of it
    if is_heavy(new.dependencies):
        await heavy(request)
    try:
        stored = await queue.submit((new,))
    except (UnknownDependency, CanceledDependency, IdempotencyConflict) as exc:
        raise type(exc)(**{name: value for name, value in exc.details.items() if name != "index"}) from None
    if stored.created[0]:
        return await answer_bytes(request, encode(job_body(stored.jobs[0], result=None)), status=201)
    return await _job(request, Lookup(stored.jobs[0].id, identity.get().scope))


@endpoint(
    "submitJobs",
    "Submit jobs, all or none; a job may name the `ref` of an earlier job of the batch as a dependency",
    description="Store jobs, either all of them or none. A job may name the `ref` of an earlier job of the "
    "batch as a dependency.",
    request=schemas.SubmitJobs,
    responses={201: ("The stored jobs, in the order submitted", schemas.JobList)},
)
async def submit_jobs(request: web.Request) -> web.StreamResponse:
    """Store several jobs in one submission, all or none.

    The answer has them in the order given, existing ones included, each with those of its dependents that are in the
    batch too. A large batch is worked on in slices, so that the event loop can go on.
    """
    queue = request.app[QUEUE]
    await check_submission(queue)
    queue.budgets.answers.check(client.get())  # afterwards it would be too late to refuse the answer
    body = await read_json(request, _SUBMIT_JOBS, queue.budgets.submissions, check_batch)
    await heavy(request)
    slices = Slices()
    new = await submission.batch(body.jobs, request.app[SETTINGS], identity.get(), slices)
    del body
    stored = await queue.submit(new)
    dependents: dict[UUID, dict[UUID, None]] = {job.id: {} for job in stored.jobs}
    for job in stored.jobs:
        for one in job.dependencies:
            if one in dependents:
                dependents[one][job.id] = None
        await slices.pause()

    def body_of(job: Job) -> schemas.Job:
        return job_body(replace(job, dependents=tuple(dependents[job.id])))

    items = await encoded(stored.jobs, body_of, slices)
    listed = job_list("batch", f"{bases.get().composer}/jobs/batch", items, msgspec.UNSET)
    return await answer_bytes(request, listed, status=201)


@endpoint(
    "getJob",
    "Get a job",
    description="Get a job with its progress and its result.",
    responses={200: ("The job", schemas.Job)},
    query={"wait": "Answer when the job has ended, or after this wait; at most 10m"},
)
async def get_job(request: web.Request) -> web.StreamResponse:
    """Return a job with its result, at once or when it has ended.

    Raises `JobNotFound`, and `QuotaUsedUp` or `QuotaForbids` if it may not wait.
    """
    queue = request.app[QUEUE]
    wanted = job_of(request)
    wait = wait_of(request)
    if wait is not None:
        with Wait(request), open_wait(queue):
            await queue.wait_for_end(wanted, wait, client.get())
        await request.app[IDENTIFIER].check_again(request, identity.get())
    return await _job(request, wanted)


@endpoint(
    "getJobArgs",
    "Get a job's args as they were submitted",
    description="Get the args of a job byte for byte, or `null` if it has none.",
    responses={200: ("The args", JSON)},
)
async def get_job_args(request: web.Request) -> web.StreamResponse:
    """Return the args byte for byte, or `null` if the job has none."""
    return await _payload(request, PayloadKind.ARGS)


@endpoint(
    "getJobResult",
    "Get a job's result as it was reported",
    description="Get the result of a job byte for byte, or `null` if it has not ended.",
    responses={200: ("The result", JSON)},
)
async def get_job_result(request: web.Request) -> web.StreamResponse:
    """Return the result byte for byte, or `null` if the job has not ended."""
    return await _payload(request, PayloadKind.RESULT)


@endpoint(
    "cancelJob",
    "Cancel a job and the jobs that depend on it",
    description="Cancel a job that has not ended, and all jobs that depend on it.",
    responses={200: ("The canceled job", schemas.Job)},
)
async def cancel_job(request: web.Request) -> web.StreamResponse:
    """Cancel a job, unless it is canceled already.

    Raises `JobNotFound`, and `JobEnded` if it has ended otherwise.
    """
    await discard_body(request)
    queue = request.app[QUEUE]
    wanted = job_of(request)
    if (await queue.listed(wanted)).state is JobState.CANCELED:
        return await _job(request, wanted)
    job = await queue.cancel(wanted)
    if is_heavy(job.dependencies, job.dependents):
        await heavy(request)
    return await answer_bytes(request, encode(job_body(job, result=None)))


@endpoint(
    "deleteJob",
    "Delete an ended job and its artifacts",
    description="Delete an ended job and its artifacts. Every job that depends on it must have ended too.",
    responses={204: ("The job is deleted", None)},
)
async def delete_job(request: web.Request) -> web.Response:
    """Delete an ended job. Every job that depends on it must have ended too.

    Raises `JobNotFound` and `JobNotEnded`. The files of its artifacts are removed afterwards, in the background.
    """
    await request.app[QUEUE].delete(job_of(request))
    return web.Response(status=204)


@endpoint(
    "whyJob",
    "Explain why a job is not running",
    description="Get the reason why a job is not running.",
    responses={200: ("The explanation", schemas.JobWhy)},
)
async def why_job(request: web.Request) -> web.StreamResponse:
    """Explain what a job waits for."""
    await heavy(request)
    why = await explain(request.app[QUEUE], job_of(request))
    answered = encode(
        schemas.JobWhy(
            kind="JobWhy",
            href=f"{bases.get().composer}/jobs/{why.job.id}/why",
            id=str(why.job.id),
            state=why.job.state,
            reason=why.reason,
            blocked_by=schemas.strings(why.blocked_by),
            delayed_until=None if why.delayed_until is None else rfc3339(why.delayed_until),
            workers=why.workers,
            paused=why.paused,
            ahead=why.ahead,
        )
    )
    return await answer_bytes(request, answered)


def _size(request: web.Request) -> int:
    """Return the size of a body that was read, or of a large one if it is not known."""
    return request.content_length or IN_A_THREAD


async def _job(request: web.Request, wanted: Lookup) -> web.StreamResponse:
    queue = request.app[QUEUE]
    large = request.app[TURNS].large_jobs
    if wanted in large:
        await heavy(request)
    job = await queue.get(wanted)
    if wanted not in large and is_heavy(job.dependencies, job.dependents):
        large.add(wanted)
        del job  # very many requests may wait for their turn
        await heavy(request)
        job = await queue.get(wanted)
    result = await queue.payload(job, PayloadKind.RESULT) if job.state.ended else None
    if not isinstance(result, Stored) and len(job.partial or b"") <= SMALL:
        return await answer_bytes(request, encode(job_body(job, result=result)))
    # The JSON is made with other texts in place of what may be large, and then cut there.
    places = [b'"%s"' % new_id_text().encode() for _ in range(2)]
    small = msgspec.structs.replace(job, partial=None if job.partial is None else places[0])
    rest = encode(job_body(small, result=None if result is None else places[1]))
    pieces: list[Piece] = []
    for place, piece in zip(places, (job.partial, result), strict=True):
        if piece is not None:
            before, _, rest = rest.partition(place)
            pieces += (before, piece)
    return await answer_pieces(request, [*pieces, rest])


async def _payload(request: web.Request, kind: PayloadKind) -> web.StreamResponse:
    queue = request.app[QUEUE]
    job = await queue.listed(job_of(request))
    return await answer_pieces(request, [await queue.payload(job, kind) or b"null"])
