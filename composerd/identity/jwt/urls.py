"""The URLs that keys may be fetched from."""

from urllib.parse import urlsplit

from composerd_protocol.loopback import is_loopback


def check_url(url: str) -> None:
    """Raise `ValueError` unless keys may be fetched from a URL: with TLS, or from this machine."""
    parts = urlsplit(url)
    _ = parts.port  # raises `ValueError` for one that is not a number of a port
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.fragment:
        raise ValueError(f"{url!r} is not a URL such as https://sso.example.com/keys")
    if "@" in parts.netloc:
        raise ValueError("the URL of keys must not have a user name or a password, because it appears in the log")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"{url!r} is fetched without TLS, so that others could replace the keys on the way: use https")
