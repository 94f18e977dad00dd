"""Parts of the OpenAPI documents beside the types: parameters, headers, tags, security, and an example of each body."""

from collections.abc import Mapping
from typing import Any

from composerd.http.fields import DURATION, WORD

_UUID = {"type": "string", "format": "uuid"}
_WORD = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": WORD}
_PAGE = {"type": "integer", "minimum": 1, "maximum": 1000}

PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "id": _UUID,
    "token": _UUID,
    "worker_id": _UUID,
    "name": {"type": "string", "minLength": 1, "maxLength": 255},
    "wait": {"type": "string", "pattern": DURATION, "examples": ["20s"]},
    "page": {"type": "integer", "minimum": 0, "maximum": 1000},
    "size": _PAGE,
    "limit": _PAGE,
    "state": {"type": "array", "items": {"$ref": "#/components/schemas/JobState"}},
    "type": _WORD,
    "channel": {"type": "string", "maxLength": 128},
    "arch": _WORD,
    "cursor": {"type": "string"},
}
"""The schemas of path and query parameters, by name."""

ERROR_ID = {"type": "string", "pattern": "^[0-9]{1,9}$"}
"""The schema of the id of a predefined error, which is no UUID."""

REQUEST_HEADERS: Mapping[str, str] = {
    "Content-Digest": "The SHA-256 of the body as RFC 9530 writes it: `sha-256=:BASE64:`.",
    "If-Match": "Answer only if the file has this ETag.",
    "If-Modified-Since": "Answer 304 if the job ended at this time or before, unless there is an `If-None-Match`.",
    "If-None-Match": "Answer 304 if the file has this ETag.",
    "If-Range": "Answer with the whole file if it does not have this ETag, or `Last-Modified`.",
    "If-Unmodified-Since": "Answer only if the job ended at this time or before, unless there is an `If-Match`.",
    "Range": "The part of the file to answer with, such as `bytes=0-1023`.",
}
"""The headers of requests that operations take, by name."""

BEARER: Mapping[str, Any] = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of the operator or of an identity provider. A server without identities needs none.",
}
"""The security scheme of both APIs."""

HEADERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "X-Operation-Id": ("The id of the request, which the log of the server has too.", {"type": "string"}),
    "Composerd-Version": ("The version of the server.", {"type": "string"}),
    "Cache-Control": ("`no-store`, or `private, no-cache` for the bytes of an artifact.", {"type": "string"}),
    "Retry-After": ("Seconds to wait before the request is repeated; only with errors 28 and 45.", {"type": "integer"}),
    "Accept-Ranges": ("Always `bytes`.", {"type": "string"}),
    "Content-Digest": ("The SHA-256 of the file as RFC 9530 writes it.", {"type": "string"}),
    "Content-Disposition": ("The name of the file.", {"type": "string"}),
    "Content-Range": ("Where the part begins and ends, and the size of the file.", {"type": "string"}),
    "ETag": ("The SHA-256 of the file in hexadecimal, in quotes.", {"type": "string"}),
    "Last-Modified": ("The time at which the job ended.", {"type": "string"}),
}
"""The headers of answers: a description and a schema, by name."""

EVERYWHERE = ("X-Operation-Id", "Composerd-Version", "Cache-Control")
"""The headers that every answer has."""

TAGS: Mapping[str, str] = {
    "jobs": "Jobs, from the submission or the request for one to the end.",
    "artifacts": "The files that workers upload for jobs.",
    "workers": "The workers themselves.",
    "server": "The server, its predefined errors and this document.",
}
"""The tags of operations, with descriptions."""

INFO: Mapping[str, Any] = {
    "contact": {"name": "The composerd authors"},
    "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
}

_ID = "4f1c1f3e-6d7a-4a55-9a5b-0c8a8e0b7c11"
_TOKEN = "9b2f7a51-52c3-4b0a-8f43-1f2a0d5c6e77"  # noqa: S105  # an example
_WORKER = "/api/worker/v1"
_JOBS = "/api/composer/v1/jobs"

_ERROR = {
    "kind": "Error",
    "href": f"{_WORKER}/errors/5",
    "id": "5",
    "code": "IMAGE-BUILDER-WORKER-5",
    "reason": "Token not found",
    "message": "Token not found",
    "operation_id": "2vTCmZ7J4rB1yq0sKx8dNf",
}
_JOB = {
    "kind": "Job",
    "href": f"{_JOBS}/{_ID}",
    "id": _ID,
    "type": "checksum",
    "arch": None,
    "channel": "",
    "state": "ready",
    "priority": 0,
    "queued_at": "2026-01-31T12:00:00.000000Z",
    "not_before": None,
    "started_at": None,
    "finished_at": None,
    "retries": 0,
    "canceled": False,
    "worker_id": None,
    "idempotency_key": None,
    "expires_at": None,
}
_ARTIFACT = {
    "kind": "Artifact",
    "href": f"{_JOBS}/{_ID}/artifacts/sum",
    "id": "sum",
    "name": "sum",
    "size": 5,
    "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
}

EXAMPLES: Mapping[str, Any] = {
    "Artifact": _ARTIFACT,
    "ArtifactList": {
        "kind": "ArtifactList",
        "href": f"{_JOBS}/{_ID}/artifacts",
        "id": "artifacts",
        "items": [_ARTIFACT],
    },
    "Error": _ERROR,
    "ErrorList": {
        "kind": "ErrorList",
        "href": f"{_WORKER}/errors",
        "id": "errors",
        "page": 0,
        "size": 1,
        "total": 1,
        "items": [{name: value for name, value in _ERROR.items() if name != "operation_id"}],
    },
    "Job": _JOB | {"dependencies": [], "dependents": [], "partial": None, "result": None},
    "JobIdList": {"kind": "JobIdList", "href": f"{_JOBS}/{_ID}/dependents", "id": _ID, "items": [], "next": None},
    "JobList": {"kind": "JobList", "href": _JOBS, "id": "jobs", "items": [_JOB], "next": None},
    "JobStatus": {"kind": "JobStatus", "href": f"{_WORKER}/jobs/{_TOKEN}", "id": _TOKEN, "canceled": False},
    "JobWhy": {
        "kind": "JobWhy",
        "href": f"{_JOBS}/{_ID}/why",
        "id": _ID,
        "state": "waiting",
        "reason": "waits for a dependency",
        "blocked_by": [_TOKEN],
        "delayed_until": None,
        "workers": None,
        "paused": None,
        "ahead": None,
    },
    "PostWorkers": {"arch": "x86_64"},
    "ReleaseJob": {},
    "RequestJob": {"types": ["checksum"], "arch": "x86_64", "confirm": True},
    "RequestedJob": {
        "kind": "RequestJob",
        "href": f"{_WORKER}/jobs",
        "id": _ID,
        "type": "checksum",
        "token": _TOKEN,
        "location": f"{_WORKER}/jobs/{_TOKEN}",
        "artifact_location": f"{_WORKER}/jobs/{_TOKEN}/artifacts/",
        "lease": "120s",
        "args": {"hello": "world"},
    },
    "Status": {
        "kind": "Status",
        "href": f"{_WORKER}/status",
        "id": "status",
        "status": "OK",
        "version": "1.0.0",
    },
    "SubmitJob": {"type": "checksum", "args": {"hello": "world"}, "timeout": "1h"},
    "SubmitJobs": {
        "jobs": [{"ref": "build", "type": "build"}, {"type": "test", "dependencies": ["build"]}],
    },
    "UpdateJob": {"result": {"sum": "2cf24dba"}},
    "UpdatedJob": {"kind": "UpdateJobResponse", "href": f"{_WORKER}/jobs/{_TOKEN}", "id": _TOKEN},
    "Identity": {
        "kind": "Identity",
        "href": "/api/composer/v1/whoami",
        "id": "whoami",
        "name": "builder-7",
        "role": "worker",
        "tenant": "acme",
        "channel": "org-acme",
        "source": "token",
        "expires_at": "2027-01-31T12:00:00.000000Z",
    },
    "WorkerID": {"kind": "WorkerID", "href": f"{_WORKER}/workers", "id": _ID, "worker_id": _ID},
    "WorkerList": {
        "kind": "WorkerList",
        "href": "/api/composer/v1/workers",
        "id": "workers",
        "items": [
            {
                "kind": "Worker",
                "href": "/api/composer/v1/workers",
                "id": _ID,
                "arch": "x86_64",
                "types": ["checksum"],
                "channel": "",
                "jobs": [],
                "seen_at": "2026-01-31T12:00:00.000000Z",
                "problem": None,
            }
        ],
    },
    "WorkerStatus": {"arch": "x86_64", "types": ["checksum"], "problem": "the disk is full"},
}
"""An example of each body, by the name of its schema."""
