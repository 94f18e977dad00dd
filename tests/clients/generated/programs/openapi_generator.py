"""A job from end to end, with the Python clients that openapi-generator has generated."""

import json
import os
import sys
from pathlib import Path
from uuid import UUID, uuid4

import composer_api
import worker_api
from worker_api.exceptions import NotFoundException

URL, FILE, OUT, ODD = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
NAME = "grüße 1.bin"

TOKEN = os.environ["TOKEN"]

composer = composer_api.ApiClient(
    composer_api.Configuration(host=f"{URL}/api/composer/v1", access_token=TOKEN, retries=0)
)
worker = worker_api.ApiClient(worker_api.Configuration(host=f"{URL}/api/worker/v1", access_token=TOKEN, retries=0))
jobs = worker_api.JobsApi(worker)
submitting = composer_api.JobsApi(composer)


def take(type: str) -> tuple[worker_api.RequestedJob, UUID]:
    """Return a job and the token of its attempt."""
    job = jobs.request_job(
        worker_api.RequestJob(types=[type], arch="x86_64", confirm=True), wait="20s", _request_timeout=40
    )
    assert job.token is not None
    return job, job.token


def update(token: UUID, body: worker_api.FinishJob | worker_api.ReportProgress) -> worker_api.UpdatedJob:
    """Report a result or progress."""
    return jobs.update_job(token, worker_api.UpdateJob(body))


job, token = take("raw")
assert job.args is not None
assert job.args["$ref"] == ODD["$ref"], job.args
update(token, worker_api.FinishJob(result=job.args["big"]))

submitted = submitting.submit_job(composer_api.SubmitJob(type="own", args=ODD))
job, token = take("own")
assert job.id == submitted.id
assert job.args == ODD
worker_api.ArtifactsApi(worker).upload_job_artifact(token, NAME, body=FILE.read_bytes())
update(token, worker_api.ReportProgress(partial={"done": 1}))
assert jobs.get_job(token).canceled is False
update(token, worker_api.FinishJob(result=job.args))

ended = submitting.get_job(submitted.id, wait="20s")
assert ended.state is composer_api.JobState.FINISHED
assert ended.result == ODD
assert ended.finished_at is not None
assert ended.not_before is None
artifacts = composer_api.ArtifactsApi(composer)
assert [(one.name, one.size) for one in artifacts.list_artifacts(submitted.id).items] == [(NAME, FILE.stat().st_size)]
OUT.write_bytes(artifacts.get_artifact(submitted.id, NAME))

try:
    jobs.get_job(uuid4())
except NotFoundException as exc:
    print(json.dumps({"job": str(submitted.id), "refused": json.loads(exc.body or "")["reason"]}))
