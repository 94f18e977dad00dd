"""The variables with the prefix of the settings that are none: of client commands, of a job, and of Kubernetes."""

import re
from collections.abc import Mapping

from composerd_protocol import job_variables
from composerd_protocol.options import CLIENT_VARIABLES

PREFIX = "COMPOSERD_"
"""Prefix of the names of settings in the environment."""

_KUBERNETES = re.compile(
    PREFIX + r"(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)"
)
_KUBERNETES_ADDRESS = re.compile(PREFIX + r"(?:[A-Z0-9_]+_)?PORT")


def is_foreign(variable: str, environ: Mapping[str, str]) -> bool:
    """Return True if a variable with the prefix is not a setting, although nobody has made a mistake.

    Kubernetes gives every container the addresses of the services in its namespace. For a service whose name begins
    with `composerd` they have the prefix: `COMPOSERD_PORT=tcp://10.0.0.1:80`, `COMPOSERD_SERVICE_HOST` and so on. The
    one that ends in `_PORT` is ignored only if its value is an address: a number is a mistake of somebody who looks for
    a setting of that name.
    """
    if variable in CLIENT_VARIABLES or variable.startswith(job_variables.PREFIX):
        return True
    if variable in job_variables.ALIASES:
        return environ[variable] == environ.get(job_variables.ALIASES[variable])
    if _KUBERNETES_ADDRESS.fullmatch(variable) and "://" in environ[variable]:
        return True
    return _KUBERNETES.fullmatch(variable) is not None
