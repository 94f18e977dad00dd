"""A job from end to end, with the clients that openapi-python-client has generated."""

import hashlib
import json
import os
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from composer_api import AuthenticatedClient as Composer
from composer_api.api.artifacts import get_artifact, list_artifacts
from composer_api.api.jobs import get_job as get_submitted
from composer_api.api.jobs import submit_job
from composer_api.models import ArtifactList, Job, JobState, SubmitJob
from composer_api.types import File as Download
from httpx import Timeout
from worker_api import AuthenticatedClient as Worker
from worker_api.api.artifacts import upload_job_artifact
from worker_api.api.jobs import get_job, request_job, update_job
from worker_api.models import (
    Error,
    FinishJob,
    JobStatus,
    ListedArtifact,
    ReportProgress,
    RequestedJob,
    RequestJob,
    UpdatedJob,
)
from worker_api.types import File, Unset

URL, FILE, OUT, ODD = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
NAME = "grüße 1.bin"

composer = Composer(base_url=f"{URL}/api/composer/v1", token=os.environ["TOKEN"], timeout=Timeout(40))
worker = Worker(base_url=f"{URL}/api/worker/v1", token=os.environ["TOKEN"], timeout=Timeout(40))


def take(type: str) -> tuple[RequestedJob, UUID]:
    """Return a job and the token of its attempt."""
    job = request_job.sync(client=worker, body=RequestJob(types=[type], arch="x86_64", confirm=True), wait="20s")
    assert isinstance(job, RequestedJob), job
    return job, job.token


def finish(token: UUID, result: Any, *files: ListedArtifact) -> Any:
    """Report a result with the files that were uploaded, and return the answer."""
    return update_job.sync(token, client=worker, body=FinishJob(result=result, artifacts=list(files)))


job, token = take("raw")
assert not isinstance(job.args, Unset)
assert job.args["$ref"] == ODD["$ref"], job.args
assert isinstance(finish(token, job.args["big"]), UpdatedJob)

submitted = submit_job.sync(client=composer, body=SubmitJob(type_="own", args=ODD))
assert isinstance(submitted, Job), submitted
job, token = take("own")
assert not isinstance(job.args, Unset)
assert job.id == submitted.id
assert job.args == ODD
digest = f"sha-256=:{b64encode(hashlib.sha256(FILE.read_bytes()).digest()).decode()}:"
with FILE.open("rb") as file:
    response = upload_job_artifact.sync_detailed(
        token, NAME, client=worker, body=File(payload=file), content_digest=digest
    )
assert response.status_code == 200, response
assert isinstance(update_job.sync(token, client=worker, body=ReportProgress(partial={"done": 1})), UpdatedJob)
status = get_job.sync(token, client=worker)
assert isinstance(status, JobStatus), status
assert status.canceled is False
assert isinstance(finish(token, job.args, ListedArtifact(NAME, size=FILE.stat().st_size)), UpdatedJob)

ended = get_submitted.sync(submitted.id, client=composer, wait="20s")
assert isinstance(ended, Job), ended
assert ended.state is JobState.FINISHED
assert ended.result == ODD
assert ended.finished_at is not None
assert ended.not_before is None
listed = list_artifacts.sync(submitted.id, client=composer)
assert isinstance(listed, ArtifactList), listed
assert [(one.name, one.size) for one in listed.items] == [(NAME, FILE.stat().st_size)]
download = get_artifact.sync(submitted.id, NAME, client=composer)
assert isinstance(download, Download), download
OUT.write_bytes(download.payload.read())

refused = get_job.sync(uuid4(), client=worker)
assert isinstance(refused, Error), refused
print(json.dumps({"job": str(submitted.id), "refused": refused.reason}))
