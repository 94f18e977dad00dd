"""The operations and the roles that may use them: the only table of it. The reference page is made from it."""

from collections.abc import Mapping

from composerd.identity.roles import Role

_EVERY_ROLE = frozenset(Role)
_WORKERS = frozenset({Role.WORKER, Role.ADMIN})
_SUBMITTERS = frozenset({Role.SUBMITTER, Role.ADMIN})
_READERS = frozenset({Role.SUBMITTER, Role.VIEWER, Role.ADMIN})

PERMISSIONS: Mapping[str, frozenset[Role] | None] = {
    # The worker API.
    "RequestJob": _WORKERS,
    "GetJob": _WORKERS,
    "UpdateJob": _WORKERS,
    "UpdateJobWithPost": _WORKERS,
    "ReleaseJob": _WORKERS,
    "UploadJobArtifact": _WORKERS,
    "postWorkers": _WORKERS,
    "postWorkerStatus": _WORKERS,
    "signOffWorker": _WORKERS,
    # The composer API.
    "submitJob": _SUBMITTERS,
    "submitJobs": _SUBMITTERS,
    "cancelJob": _SUBMITTERS,
    "deleteJob": _SUBMITTERS,
    "listJobs": _READERS,
    "getJob": _READERS,
    "getJobArgs": _READERS,
    "getJobResult": _READERS,
    "whyJob": _READERS,
    "listDependencies": _READERS,
    "listDependents": _READERS,
    "listArtifacts": _READERS,
    "getArtifact": _READERS,
    "listWorkers": _READERS,
    "whoami": _EVERY_ROLE,
    # Both APIs.
    "GetStatus": None,
    "getStatus": None,
    "getErrors": None,
    "getError": None,
    "getOpenapi": None,
    # Neither.
    "getMetrics": frozenset({Role.MONITOR, Role.ADMIN}),
    "getReadiness": None,
    "getHealth": None,
    "getFrontPage": None,
}
"""The roles that may use each operation, by its name; None where no credentials are needed."""

SEES_REASONS = frozenset({Role.MONITOR, Role.ADMIN})
"""The roles to which `getReadiness` says why the server is not ready."""


def one_of(roles: frozenset[Role]) -> str:
    """Return the names of two or more roles in a sentence, such as "submitter, viewer or admin"."""
    *others, last = (role for role in Role if role in roles)
    return f"{', '.join(others)} or {last}"
