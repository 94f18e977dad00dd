"""The errors for answers that are not composerd's: who has sent them, and what to change there."""

import pytest

from composerd_client.address import Address
from composerd_client.proxies import proxy_answer


@pytest.mark.parametrize(
    ("headers", "body", "name"),
    [
        ({"Server": "nginx/1.22.1"}, b"", "nginx"),
        ({"Server": "Apache/2.4.71 (Debian)"}, b"", "Apache"),
        ({"Server": "Varnish", "X-Varnish": "32770", "Via": "1.1 varnish (Varnish/7.1)"}, b"", "Varnish"),
        ({"Via": "1.1 localhost (squid/5.7)"}, b"", "Squid"),
        ({"X-Varnish": "3"}, b"", "Varnish"),
        ({"Server": "Caddy"}, b"", "Caddy"),
        ({"Server": "lighttpd/1.4.69"}, b"", "lighttpd"),
        ({"Server": "h2o/2.2.5"}, b"", "h2o"),
        ({"server": "envoy"}, b"", "Envoy"),
        ({"Server": "ATS/9.2.9"}, b"", "Traffic Server"),
        ({"Server": "awselb/2.0"}, b"", "AWS ELB"),
        ({"Server": "cloudflare", "CF-RAY": "1-FRA"}, b"", "Cloudflare"),
        ({}, b"<html><body><h1>503 Service Unavailable</h1>\nNo server is available", "HAProxy"),
        ({"Server": "Some Gateway \x1b[2J" + "x" * 100}, b"", "Some Gateway [2J" + "x" * 24),
        ({}, b"404 page not found\n", ""),
    ],
)
def test_the_sender(headers: dict[str, str], body: bytes, name: str) -> None:
    """A proxy is recognized by its headers or by its page, and its name is part of the message."""
    answered = proxy_answer(404, {key.title(): value for key, value in headers.items()} | headers, body, "GET")
    assert answered.proxy == name
    assert answered.reason.startswith(f"404 from a proxy{f' ({name})' if name else ''}, not from composerd: ")


@pytest.mark.parametrize(
    ("status", "server", "advice"),
    [
        (413, "nginx", "raise its client_max_body_size"),
        (413, "", "raise its limit for the size of requests"),
        (408, "haproxy", "raise its timeout http-request"),
        (429, "nginx", "raise its limit_req"),
        (504, "envoy", "raise its timeout of the route"),
        (502, "h2o", "is `composerd serve` running behind it, and its proxy.timeout.io long enough?"),
        (503, "", "is `composerd serve` running behind it?"),
        (405, "", "it does not pass PATCH on"),
        (403, "", "allow PATCH for this path"),
        (200, "", "it answers with a page of its own, so nothing was done"),
        (226, "", "it answers with a page of its own"),
        (302, "", "its log says why"),
        (599, "", "its log says why"),
    ],
)
def test_the_advice(status: int, server: str, advice: str) -> None:
    """The message says what to change, and calls a setting by its name in the proxy if that is known."""
    assert advice in proxy_answer(status, {"Server": server}, b"", "PATCH").reason


@pytest.mark.parametrize(
    ("server", "path", "url"),
    [
        ("http://h:1", "/api/worker/v1/jobs", "http://h:1/api/worker/v1/jobs"),
        ("http://h:1/ci/", "/api/worker/v1/jobs", "http://h:1/ci/api/worker/v1/jobs"),
        ("http://h:1/ci", "/ci/api/worker/v1/jobs", "http://h:1/ci/api/worker/v1/jobs"),
        ("http://h:1/ci", "/ci/own/jobs", "http://h:1/ci/own/jobs"),
        ("http://h:1/ci", "/own/jobs", "http://h:1/ci/own/jobs"),
        ("http://h:1/api", "/api/worker/v1/jobs", "http://h:1/api/api/worker/v1/jobs"),
        ("http://h:1/api", "/api/api/worker/v1/jobs", "http://h:1/api/api/worker/v1/jobs"),
        ("http://h:1/a/b", "/a/b/api/x", "http://h:1/a/b/api/x"),
        ("unix:/run/composerd.sock", "/api/x", "http://localhost/api/x"),
    ],
)
def test_paths_below_a_prefix(server: str, path: str, url: str) -> None:
    """The prefix in a server's URL is put before a path once, whether or not the server has named the path with it."""
    assert str(Address(server).url(path)) == url
