"""Names of hosts: how a domain is written, and which names are in one."""

import re

DOMAIN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
"""A domain, whose first label may be `*`."""


def matches(name: str, domain: str) -> bool:
    """Return True if the name and the domain are equal. `*` as the first label of either matches any one label."""
    name, domain = name.lower().rstrip("."), domain.lower().rstrip(".")
    if name == domain:
        return True
    name_host, _, name_rest = name.partition(".")
    domain_host, _, domain_rest = domain.partition(".")
    return "*" in (name_host, domain_host) and name_rest == domain_rest != ""
