"""Calls of the Python client that mypy checks; nothing runs them.

A call that mypy should refuse has a `type: ignore`, and mypy refuses one that is not needed.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

from composerd_client import (
    Artifact,
    ComposerClient,
    GraphJob,
    Job,
    JobContext,
    JobState,
    KnownWorker,
    SyncComposerClient,
    Why,
    Worker,
)


async def asynchronous(composer: ComposerClient) -> None:
    """Submit with typed fields, and get typed values."""
    job = await composer.submit("a", args=[1], timeout=timedelta(hours=1), not_before=datetime.now(UTC), priority=5)
    assert_type(job, Job)
    assert_type(job.state, JobState)
    assert_type(job.queued_at, datetime)
    assert_type((await composer.why(job.id)).delayed_until, datetime | None)
    await composer.submit("a", prioriti=5)  # type: ignore[call-arg]
    await composer.submit("a", timeout=90)  # type: ignore[arg-type]
    await composer.submit("a", on_dependency_failure="ignore")  # type: ignore[arg-type]
    await composer.submit_graph([{"type": "a", "ref": "b"}, {"type": "c", "dependencies": ["b"], "retention": "14d"}])
    await composer.submit_graph([{"type": "a", "reff": "b"}])  # type: ignore[typeddict-unknown-key]
    await composer.submit_graph([{"ref": "b"}])  # type: ignore[typeddict-item]
    async for one in composer.list(state=JobState.READY):
        assert_type(one, Job)
    composer.list(stat="ready")  # type: ignore[call-arg]


def synchronous(graph: list[GraphJob]) -> None:
    """Make the same calls without `await`: they have the same arguments, and results of the same types."""
    with SyncComposerClient("unix:/run/composerd", patience=timedelta(minutes=1)) as composer:
        job = composer.submit("a", args=[1], timeout=timedelta(hours=1), not_before=datetime.now(UTC), priority=5)
        assert_type(job, Job)
        assert_type(composer.submit_graph(graph), list[Job])
        assert_type(composer.wait(job.id, timeout=3), Job)
        assert_type(composer.why(job.id), Why)
        assert_type(composer.workers(), list[KnownWorker])
        assert_type(composer.list(10, state="ready"), Iterator[Job])
        assert_type(composer.progress(job.id), Iterator[Any])
        assert_type(composer.dependents(job.id), Iterator[str])
        (artifact,) = composer.artifacts(job.id)
        assert_type(artifact, Artifact)
        assert_type(composer.download(artifact, Path("a"), overwrite=True), Path)
        assert_type(composer.read(artifact), Iterator[bytes])
        composer.submit("a", prioriti=5)  # type: ignore[call-arg]
        composer.submit("a", timeout=90)  # type: ignore[arg-type]
        composer.list(stat="ready")  # type: ignore[call-arg]
    SyncComposerClient(patienc=3)  # type: ignore[call-arg]


def handlers(worker: Worker) -> None:
    """Register handlers, which keep their own types."""

    @worker.handler("plain")
    def plain(job: JobContext) -> int:
        job.sync.progress({"done": 1})
        job.sync.upload("log", b"text")
        job.sync.upload("log", 5)  # type: ignore[arg-type]
        return 5

    @worker.handler("coroutine")
    async def coroutine(job: JobContext) -> str:
        await job.progress(1)
        return "done"

    @worker.handler("wrong")  # type: ignore[type-var]
    def wrong(text: str) -> None:
        raise ValueError(text)

    assert_type(plain(JobContext.__new__(JobContext)), int)
