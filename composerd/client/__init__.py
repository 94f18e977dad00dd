"""The client library: `ComposerClient` submits jobs and follows them, `Worker` runs them.

It depends on the protocol only, and imports nothing of the server.
"""

from composerd.client.composer import ComposerClient
from composerd.client.connection import DEFAULT_SERVER
from composerd.client.errors import (
    ClientError,
    DamagedDownload,
    DamagedUpload,
    OutcomeUnknown,
    ProxyAnswered,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
    UnexpectedAnswer,
    UnsafeName,
)
from composerd.client.job_context import JobContext
from composerd.client.values import Artifact, Job
from composerd.client.worker import Worker

__all__ = [
    "Artifact",
    "ClientError",
    "ComposerClient",
    "DEFAULT_SERVER",
    "DamagedDownload",
    "DamagedUpload",
    "Job",
    "JobContext",
    "OutcomeUnknown",
    "ProxyAnswered",
    "RequestFailed",
    "ServerNotTrusted",
    "ServerUnreachable",
    "UnexpectedAnswer",
    "UnsafeName",
    "Worker",
]
