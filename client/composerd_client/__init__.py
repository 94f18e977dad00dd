"""The client library: `ComposerClient` and `SyncComposerClient` submit jobs and follow them, `Worker` runs them.

It depends on the protocol only, and imports nothing of the server. Every type that a public method takes or returns can
be imported from here.
"""

from composerd_client.arguments import client_arguments
from composerd_client.composer import ComposerClient
from composerd_client.credentials.oauth import OAuth
from composerd_client.credentials.tokens import Credentials, Token, TokenFile
from composerd_client.errors import (
    ClientError,
    DamagedDownload,
    DamagedUpload,
    LocalFault,
    OutcomeUnknown,
    ProxyAnswered,
    ProxyUnreachable,
    RequestFailed,
    ServerNotTrusted,
    ServerUnreachable,
    TokenRefused,
    TokenUnavailable,
    UnexpectedAnswer,
    UnsafeName,
)
from composerd_client.job_context import JobContext, SyncJobContext
from composerd_client.submitted_job import GraphJob, JobFields
from composerd_client.sync_composer import SyncComposerClient
from composerd_client.uploads import Uploaded
from composerd_client.values import Artifact, Identity, Job, JobState, KnownWorker, Why
from composerd_client.worker import Handler, HealthCheck, Worker
from composerd_protocol.options import DEFAULT_SERVER

__all__ = [
    "Artifact",
    "ClientError",
    "ComposerClient",
    "Credentials",
    "DEFAULT_SERVER",
    "DamagedDownload",
    "DamagedUpload",
    "GraphJob",
    "Handler",
    "HealthCheck",
    "Identity",
    "Job",
    "JobContext",
    "JobFields",
    "JobState",
    "KnownWorker",
    "LocalFault",
    "OAuth",
    "OutcomeUnknown",
    "ProxyAnswered",
    "ProxyUnreachable",
    "RequestFailed",
    "ServerNotTrusted",
    "ServerUnreachable",
    "SyncComposerClient",
    "SyncJobContext",
    "Token",
    "TokenFile",
    "TokenRefused",
    "TokenUnavailable",
    "UnexpectedAnswer",
    "UnsafeName",
    "Uploaded",
    "Why",
    "Worker",
    "client_arguments",
]
