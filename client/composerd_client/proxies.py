"""Answers that are not composerd's: which proxy has sent them, and what to change there."""

import html
import re
from collections.abc import Mapping
from typing import NamedTuple

from composerd_client.answers import REQUEST_ID_HEADER
from composerd_client.errors import ProxyAnswered
from composerd_protocol.escaping import without_tokens


class _Proxy(NamedTuple):
    """A kind of proxy, with the names of its settings; empty if it has none of its own."""

    name: str
    body: str = ""
    """The largest body of a request."""
    answer: str = ""
    """The longest time until the server answers."""
    request: str = ""
    """The longest time until the request is complete."""
    rate: str = ""
    """The number of requests of one client."""


_NGINX = _Proxy(
    "nginx", "client_max_body_size", "proxy_read_timeout", "client_body_timeout", "limit_req and limit_conn"
)
_APACHE = _Proxy("Apache", "LimitRequestBody", "ProxyTimeout", "RequestReadTimeout")
_LIGHTTPD = _Proxy("lighttpd", "server.max-request-size", "read-timeout in proxy.server", "server.max-read-idle")
_VARNISH = _Proxy("Varnish", "", "first_byte_timeout (or return (pipe))", "timeout_req")
_SQUID = _Proxy("Squid", "request_body_max_size", "read_timeout", "request_timeout")
_CADDY = _Proxy("Caddy", "request_body max_size", "response_header_timeout", "read_body timeout")
_H2O = _Proxy("h2o", "limit-request-body", "proxy.timeout.io", "http1-request-timeout")
_ENVOY = _Proxy("Envoy", "max_request_bytes", "timeout of the route", "request_timeout", "local_ratelimit")
_NGHTTPX = _Proxy("nghttpx", "", "--backend-read-timeout", "--frontend-read-timeout")
_TRAFFIC_SERVER = _Proxy("Traffic Server", "", "proxy.config.http.transaction_no_activity_timeout_out")
_HAPROXY = _Proxy("HAProxy", "", "timeout server", "timeout http-request")
_TRAEFIK = _Proxy("Traefik", "maxRequestBodyBytes", "responseHeaderTimeout", "readTimeout", "rateLimit")
_IIS = _Proxy("IIS", "maxAllowedContentLength", "time-out of its Application Request Routing")

_PROXIES = {
    "nginx": _NGINX,
    "openresty": _NGINX._replace(name="openresty"),
    "tengine": _NGINX._replace(name="Tengine"),
    "apache": _APACHE,
    "lighttpd": _LIGHTTPD,
    "varnish": _VARNISH,
    "squid": _SQUID,
    "caddy": _CADDY,
    "h2o": _H2O,
    "envoy": _ENVOY,
    "istio-envoy": _ENVOY,
    "nghttpx": _NGHTTPX,
    "ats": _TRAFFIC_SERVER,
    "apachetrafficserver": _TRAFFIC_SERVER,
    "haproxy": _HAPROXY,
    "traefik": _TRAEFIK,
    "kong": _NGINX._replace(name="Kong"),
    "microsoft-iis": _IIS,
    "microsoft-httpapi": _IIS,
    "cloudflare": _Proxy("Cloudflare", "limit for uploads, which depends on the plan", "proxy read timeout (100 s)"),
    "cloudfront": _Proxy("CloudFront", "", "origin response timeout (30 s)"),
    "awselb": _Proxy("AWS ELB", "", "idle timeout (60 s)"),
    "akamaighost": _Proxy("Akamai"),
    "google": _Proxy("Google Cloud", "", "backend service timeout (30 s)"),
    "fastly": _VARNISH._replace(name="Fastly"),
}
"""The known proxies, by the first word of a `Server` header or of a comment in `Via`, in small letters."""

_HEADERS = {"X-Varnish": "varnish", "X-Squid-Error": "squid", "CF-RAY": "cloudflare", "X-Amz-Cf-Id": "cloudfront"}
"""Headers of proxies that do not name themselves otherwise."""

_PAGES = ((re.compile(rb"<html><body><h1>\d{3} "), "haproxy"), (re.compile(rb"<center>nginx"), "nginx"))
"""Beginnings of the pages of proxies that do not name themselves in a header."""


class _Advice(NamedTuple):
    """Advice after an answer with one status."""

    text: str
    """A sentence, with `{setting}` for the name of the setting."""
    setting: str = ""
    """The field of `_Proxy` that has the name."""
    general: str = ""
    """The name where the proxy is unknown."""


_LOGIN = _Advice("it wants a login of its own; let it pass these requests on, and let composerd check tokens")
_NO_ROUTE = _Advice("it does not pass this path on to composerd; compare its routes with the URL of the server")
_METHOD = _Advice("it does not pass {method} on; allow GET, HEAD, POST, PUT, PATCH and DELETE")
_HEAD = _Advice("raise its limit for the length of paths and headers")
_BROKEN = _Advice(
    "it got no answer from composerd; is `composerd serve` running behind it, and its {setting} long enough?",
    "answer",
    "time limit for answers",
)

_ADVICE = {
    200: _Advice("it answers with a page of its own, so nothing was done; let it pass all requests on to composerd"),
    400: _Advice("it takes the request for malformed; its log says why"),
    401: _LOGIN,
    403: _Advice("it does not let this client in; allow {method} for this path in its access rules"),
    404: _NO_ROUTE,
    405: _METHOD,
    407: _Advice("it wants a login; write http://USER:PASSWORD@HOST:PORT as the URL of the proxy"),
    408: _Advice("the request took too long; raise its {setting}", "request", "time limit for requests"),
    410: _NO_ROUTE,
    411: _Advice("it takes no body of unknown length; let it pass chunked bodies on"),
    413: _Advice("raise its {setting}", "body", "limit for the size of requests"),
    414: _HEAD,
    421: _NO_ROUTE,
    429: _Advice("it limits the number of requests; raise its {setting} for this client", "rate", "limit"),
    431: _HEAD,
    500: _BROKEN,
    501: _METHOD,
    502: _BROKEN,
    503: _Advice("no server is available to it, or it takes no more requests; is `composerd serve` running behind it?"),
    504: _Advice("composerd did not answer in its time; raise its {setting}", "answer", "time limit for answers"),
}
"""The advice by status; 200 stands for all below 300."""

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")

_TITLE = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1>", re.IGNORECASE | re.DOTALL)

_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)

_LONGEST_PAGE = 4096
"""Bytes of a page that are searched for a title."""

_LONGEST_SAID = 80

_LONGEST_NAME = 40


def proxy_answer(
    status: int, headers: Mapping[str, str], body: bytes, method: str, problem: str | None = None
) -> ProxyAnswered:
    """Return the error for an answer that is not composerd's. `problem`, unless empty, replaces the usual advice."""
    proxy, name = _sender(headers, body)
    shown = f" ({name})" if name else ""
    said = _said(status, body)
    advice = (problem or _advice(status, proxy, method)) + (f"; its page says {said!r}" if said else "")
    return ProxyAnswered(status, f"{status} from a proxy{shown}, not from composerd: {advice}", name)


def known_proxy(headers: Mapping[str, str], body: bytes) -> str:
    """Return the name of a known proxy that has sent an answer or passed it on; empty if nothing names it."""
    proxy = _known(headers, body)
    return "" if proxy is None else proxy.name


def _said(status: int, body: bytes) -> str:
    """Return the title of a page, or the first words of its text; empty if that is no more than the status."""
    if body.lstrip()[:1] in (b"{", b"["):
        return ""  # JSON, perhaps of composerd, which may have the args of a job
    page = body[:_LONGEST_PAGE].decode(errors="replace")
    title = _TITLE.search(page)
    text = _TAGS.sub(" ", title[2] if title else page)
    words = "".join(one if one.isprintable() else " " for one in html.unescape(text)).split()
    said = without_tokens(" ".join(words))
    said = said if len(said) <= _LONGEST_SAID else said[: _LONGEST_SAID - 1] + "…"
    return "" if said == str(status) else said


def _known(headers: Mapping[str, str], body: bytes) -> _Proxy | None:
    words = _WORD.findall(headers.get("Server", ""))[:1] + _WORD.findall(headers.get("Via", ""))
    words += [word for header, word in _HEADERS.items() if header in headers]
    words += [word for page, word in _PAGES if page.search(body, 0, 1024)]
    return next((_PROXIES[word.lower()] for word in words if word.lower() in _PROXIES), None)


def _sender(headers: Mapping[str, str], body: bytes) -> tuple[_Proxy, str]:
    """Return the proxy that has sent an answer, and its name: empty if nothing names it."""
    proxy = _known(headers, body)
    if proxy is not None:
        return proxy, proxy.name
    if REQUEST_ID_HEADER in headers:
        return _Proxy(""), ""  # the header `Server` is composerd's
    name = "".join(one for one in headers.get("Server", "") if one.isprintable())[:_LONGEST_NAME]
    return _Proxy(name), name


def _advice(status: int, proxy: _Proxy, method: str) -> str:
    """Return a sentence that says what to change at a proxy."""
    advice = _ADVICE.get(status)
    if advice is None:
        return _ADVICE[200].text if status < 300 else "its log says why"
    setting = getattr(proxy, advice.setting) if advice.setting else ""
    return advice.text.format(method=method, setting=setting or advice.general)
