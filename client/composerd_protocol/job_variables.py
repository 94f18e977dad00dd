"""The environment variables of a job's command, which a worker sets and a server in a job ignores."""

from collections.abc import Mapping

PREFIX = "COMPOSERD_JOB_"
"""Prefix of the names, which no setting of a server has."""

ALIASES: Mapping[str, str] = {
    "COMPOSERD_ARCH": f"{PREFIX}ARCH",
    "COMPOSERD_ARTIFACTS": f"{PREFIX}ARTIFACTS",
    "COMPOSERD_DYNAMIC_ARGS": f"{PREFIX}DYNAMIC_ARGS",
    "COMPOSERD_PROGRESS": f"{PREFIX}PROGRESS",
    "COMPOSERD_RESULT": f"{PREFIX}RESULT",
}
"""The variable of which each earlier name has the value."""


def with_aliases(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a job together with their earlier names."""
    return {**variables, **{alias: variables[name] for alias, name in ALIASES.items()}}
