"""Hosts that are this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return True if a host, in small letters and without brackets, is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
