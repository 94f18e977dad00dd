"""Comparing names of hosts with the domains that settings allow."""


def matches(name: str, domain: str) -> bool:
    """Return True if the name and the domain are equal. `*` as the first label of either matches any one label."""
    name, domain = name.lower().rstrip("."), domain.lower().rstrip(".")
    if name == domain:
        return True
    name_host, _, name_rest = name.partition(".")
    domain_host, _, domain_rest = domain.partition(".")
    return "*" in (name_host, domain_host) and name_rest == domain_rest != ""
