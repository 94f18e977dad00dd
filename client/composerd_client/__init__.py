"""The client library: `ComposerClient` submits jobs and follows them, `Worker` runs them.

It depends on the protocol only, and imports nothing of the server.
"""

from composerd_client.composer import ComposerClient
from composerd_client.connection import DEFAULT_SERVER
from composerd_client.errors import (
    ClientError,
    DamagedDownload,
    DamagedUpload,
    LocalFault,
    OutcomeUnknown,
    ProxyAnswered,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
    UnexpectedAnswer,
    UnsafeName,
)
from composerd_client.job_context import JobContext
from composerd_client.values import Artifact, Job
from composerd_client.worker import Worker

__all__ = [
    "Artifact",
    "ClientError",
    "ComposerClient",
    "DEFAULT_SERVER",
    "DamagedDownload",
    "DamagedUpload",
    "Job",
    "JobContext",
    "LocalFault",
    "OutcomeUnknown",
    "ProxyAnswered",
    "RequestFailed",
    "ServerNotTrusted",
    "ServerUnreachable",
    "UnexpectedAnswer",
    "UnsafeName",
    "Worker",
]
