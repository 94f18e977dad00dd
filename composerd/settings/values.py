"""The values that settings can have: parsers, and constants that the rest of the server uses too.

A parser turns text into a value, or raises `ValueError` with a message that says what is wrong.
"""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path

from composerd.host_names import DOMAIN
from composerd.identity.jwt.urls import check_url
from composerd.identity.roles import Role
from composerd_protocol.units import parse_duration, parse_size

WORKER_BASE = "/api/worker/v1"
"""The base path of the worker API, unless `worker_base_path` sets another."""

COMPOSER_BASE = "/api/composer/v1"
"""The base path of the composer API."""

LONGEST_PATH = 128
"""The most characters of a base path."""

LONGEST_CLAIM = 256
"""The most characters of the name of a claim."""

MAX_DURATION = 3650 * 86400.0
"""The longest duration that a setting or a job can have, in seconds: ten years."""

DEFAULT_ADDRESS = "127.0.0.1:8700"
"""The address to listen on if none is given and no socket is passed."""

TCP_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]/]*)):(?P<port>[0-9]{1,5})")


def duration(text: str) -> float:
    """Parse a duration of at most `MAX_DURATION`, in seconds."""
    seconds = parse_duration(text)
    if seconds > MAX_DURATION:
        raise ValueError(f"{text!r} is longer than ten years")
    return seconds


def positive_duration(text: str) -> float:
    """Parse a duration that is not 0, in seconds."""
    seconds = duration(text)
    if seconds <= 0:
        raise ValueError("must be greater than 0")
    return seconds


def positive_size(text: str) -> int:
    """Parse a size that is not 0, in bytes."""
    size = parse_size(text)
    if size <= 0:
        raise ValueError("must be greater than 0")
    return size


def size(text: str) -> int:
    """Parse a size in bytes, which may be 0."""
    return parse_size(text)


def mode(text: str) -> int:
    """Parse the permissions of a file, in octal."""
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f"{text!r} is not a mode in octal such as 0660")
    return int(text, 8)


def network(text: str) -> str:
    """Return an address or a network in CIDR notation; accept `unix`, which stands for peers on unix sockets."""
    if text == "unix":
        return text
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an address or a network such as 10.0.0.0/8, nor `unix`") from None


class OneOf:
    """A parser that accepts only some words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, text: str) -> str:
        """Return the text. Raises `ValueError` if it is none of the words."""
        if text not in self.words:
            raise ValueError(f"{text!r} is not one of {', '.join(self.words)}")
        return text


def switch(text: str) -> bool:
    """Parse a setting that is on or off."""
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def nonempty(text: str) -> str:
    """Accept any text that is not empty."""
    if not text:
        raise ValueError("must not be empty")
    return text


def site_path(text: str) -> str:
    """Accept a path that clients send unchanged."""
    return _path(text, "/ci")


def base_path(text: str) -> str:
    """Accept a path that clients send unchanged, and that is not within the composer API's."""
    _path(text, WORKER_BASE)
    if text == COMPOSER_BASE or text.startswith(f"{COMPOSER_BASE}/"):
        raise ValueError(f"{text!r} is the path of the composer API")
    return text


def _path(text: str, example: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text):
        raise ValueError(f"{text!r} is not a path such as {example}")
    if {".", ".."} & set(text.split("/")):
        raise ValueError(f"{text!r} has a segment . or .., which clients remove from the path")
    if len(text) > LONGEST_PATH:
        raise ValueError(f"{text!r} is longer than {LONGEST_PATH} characters")
    return text


def address(text: str) -> str:
    """Accept an address to listen on: TCP or a unix socket."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    match = TCP_ADDRESS.fullmatch(text)
    try:
        if match is not None and int(match["port"]) < 1 << 16:
            (match["host"] or "").encode("idna")  # fails for the same names as the resolver
            return text
    except UnicodeError:
        pass
    raise ValueError(f"{text!r} is not an address: write HOST:PORT, [IPV6]:PORT or unix:/path")


def readable_file(text: str) -> str:
    """Accept the path of a file that can be read now."""
    try:
        with Path(nonempty(text)).open("rb"):
            return text
    except OSError as exc:
        raise ValueError(f"{text} cannot be read: {exc.strerror}") from None


def domain(text: str) -> str:
    """Accept a domain name, whose first label may be `*`."""
    if not DOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is not a domain such as worker.example.com or *.example.com")
    return text


def host(text: str) -> str:
    """Accept a domain, as `domain` does, or an address, without brackets if it is an IPv6 one."""
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    try:
        return domain(text)
    except ValueError:
        problem = f"{text!r} is not a host such as composer.example.com, *.example.com or 127.0.0.1, without a port"
        raise ValueError(problem) from None


def keys_place(text: str) -> str:
    """Accept a URL from which keys may be fetched, or the path of a file that can be read now."""
    if "://" not in text:
        return readable_file(text)
    check_url(text)
    return text


def claim_path(text: str) -> str:
    """Accept the name of a claim, or several with dots between them."""
    if not text or len(text) > LONGEST_CLAIM:
        raise ValueError(f"must have 1 to {LONGEST_CLAIM} characters")
    return text


def role(text: str) -> Role:
    """Parse the name of a role."""
    try:
        return Role(text)
    except ValueError:
        raise ValueError(f"{text!r} is not one of the roles {', '.join(Role)}") from None


def role_of_value(text: str) -> tuple[str, Role]:
    """Parse `VALUE=ROLE`. The value may have an equals sign itself."""
    value, separator, name = text.rpartition("=")
    if not separator or not value:
        raise ValueError(f"{text!r} is not VALUE=ROLE, such as builders=worker")
    return value, role(name)
