"""Requests that a browser makes for a page of somebody else are refused, and requests that name another host."""

import re
from collections.abc import Mapping, Sequence

from aiohttp import hdrs, web

from composerd.errors import NotAllowed
from composerd.host_names import matches
from composerd.http.errors import UnsupportedMediaType
from composerd.http.openapi import JSON
from composerd.http.paths import Bases
from composerd.settings import Settings

_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""The content types that a form of any page can send to any server, without the browser asking the server first."""

_ORIGIN_OF_ITSELF = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for a request of a page of this server, and one that the person at the browser has made."""

_SITE = "Sec-Fetch-Site"

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:@/\[\]]+)(?::([0-9]{1,5}))?")


class BrowserGuard:
    """Decides which requests are refused because a page in somebody's browser may have made them."""

    def __init__(self, settings: Settings) -> None:
        bases = Bases.of(settings)
        site, worker, composer = map(re.escape, (bases.site, bases.worker, bases.composer))
        of_apis = r"(?:status|openapi|errors(?:/[^/]*)?)"
        self._public = re.compile(rf"{site}/?|{site}/healthz|{site}/readyz|(?:{worker}|{composer})/{of_apis}")
        """The paths that say the same to everybody, and nothing about jobs."""
        self._hosts: Sequence[str] = settings.allowed_hosts
        self._health = f"{bases.site}/healthz"

    def check(self, request: web.BaseRequest) -> None:
        """Raise `NotAllowed` or `UnsupportedMediaType` for a request that is to be refused."""
        headers = request.headers
        reads = request.method in _READING
        if not reads and _is_form(headers.get(hdrs.CONTENT_TYPE, JSON)):
            problem = "this is the type of a form: send application/json, or application/octet-stream for an upload"
            raise UnsupportedMediaType(content_type=headers[hdrs.CONTENT_TYPE], problem=problem)
        if (hdrs.ORIGIN in headers or _SITE in headers) and not (reads and self._public.fullmatch(request.path)):
            _check_origin(headers)
        if self._hosts and request.path != self._health:
            self._check_host(request)

    def _check_host(self, request: web.BaseRequest) -> None:
        """Raise `NotAllowed` unless the request names an allowed host, in its target if that is a whole URL too."""
        named = request.headers.getall(hdrs.HOST, [])
        target = request._message.path  # noqa: SLF001  # as it was sent
        if not target.startswith("/"):
            named.append(target.partition("://")[2].partition("/")[0])
        hosts = [_host_of(host) for host in named]
        if not hosts or not all(host and any(matches(host, allowed) for allowed in self._hosts) for host in hosts):
            raise NotAllowed(host=named[0][:100] if named else None, problem="the server is not known by this name")


def _is_form(content_type: str) -> bool:
    return content_type != JSON and content_type.partition(";")[0].strip().lower() in _FORMS


def _check_origin(headers: Mapping[str, str]) -> None:
    """Raise `NotAllowed` for a request of a page that is not from this server.

    A browser that sends Sec-Fetch-Site knows better than the server, to which a proxy may have given another host.
    """
    site = headers.get(_SITE)
    if site is not None:
        allowed = site in _ORIGIN_OF_ITSELF
    else:
        scheme, _, origin = headers[hdrs.ORIGIN].lower().partition("://")
        default = {"http": ":80", "https": ":443"}.get(scheme, "")
        host = headers.get(hdrs.HOST, "").lower()
        allowed = bool(origin) and origin.removesuffix(default) == host.removesuffix(default)
    if not allowed:
        raise NotAllowed(problem="the request comes from a page of another site")


def _host_of(text: str) -> str | None:
    """Return the host that is named, in lower case, without port and brackets; None if it is no host."""
    match = _HOST.fullmatch(text.lower())
    return None if match is None else match[1].strip("[]")
