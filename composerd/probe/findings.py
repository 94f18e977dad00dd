"""Results of checks, with advice for the proxy that is known."""

import enum

import msgspec


class Outcome(enum.Enum):
    """Outcome of a check."""

    OK = "ok"
    NOTE = "note"
    """Something is not as it should be, and no setting of the proxy changes it."""
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """Result of a check."""

    check: str
    outcome: Outcome
    seen: str
    change: str = ""
    """Advice on what to change."""


class Advice(msgspec.Struct, frozen=True):
    """Advice after a check has found something, by proxy."""

    general: str
    """For a proxy that is not known."""
    by_proxy: dict[str, str] = {}
    incurable: dict[str, str] = {}
    """For proxies that no setting changes: what to do instead."""


def wrong(check: str, seen: str, advice: Advice, proxy: str) -> Finding:
    """Return the finding of a check that has failed: a note if no setting of the proxy changes it."""
    if proxy in advice.incurable:
        return Finding(check, Outcome.NOTE, seen, f"{proxy}: {advice.incurable[proxy]}")
    if proxy in advice.by_proxy:
        return Finding(check, Outcome.WRONG, seen, f"{proxy}: {advice.by_proxy[proxy]}")
    return Finding(check, Outcome.WRONG, seen, advice.general)


CREDENTIALS = Advice(
    "make the proxy pass the header Authorization on: it takes the token away",
    {"Squid": "login=PASSTHRU in the line cache_peer: it takes the token away"},
)

_NO_LEAVE = (
    "no setting changes this; keep --proxied-wait at 20s, and let workers name a short wait and confirm their jobs"
)

LEAVE = Advice(
    "make the proxy end its request to the server when the client closes the connection",
    {
        "nginx": "proxy_ignore_client_abort off",
        "HAProxy": "option abortonclose",
        "Varnish": "return (pipe) in vcl_recv; return (pass) does not help",
        "Traffic Server": "proxy.config.http.allow_half_open 0",
    },
    {"Apache": _NO_LEAVE, "lighttpd": _NO_LEAVE, "h2o": _NO_LEAVE},
)

WAIT = Advice(
    "raise the proxy's time limit for an answer above the longest wait (660 s for all), or let workers wait for less",
    {
        "nginx": "proxy_read_timeout 11m",
        "HAProxy": "timeout client 11m and timeout server 11m",
        "Apache": "ProxyTimeout 660",
        "lighttpd": "server.max-read-idle = 660 and server.max-write-idle = 660",
        "Varnish": "return (pipe) in vcl_recv, and -p pipe_timeout=660",
        "Squid": "read_timeout 660 seconds",
        "Caddy": "no response_header_timeout or read_timeout in the transport",
        "h2o": "proxy.timeout.io: 660000",
        "nghttpx": "--backend-read-timeout=11m --frontend-read-timeout=11m",
        "Envoy": "timeout: 0s and idle_timeout: 660s in the route, stream_idle_timeout: 660s in the connection manager",
        "Traffic Server": "proxy.config.http.transaction_no_activity_timeout_in and _out 660",
    },
)

BOUNDED = Advice(
    "make the proxy send X-Forwarded-For or name it in --trusted-proxies, so that the server ends such waits after "
    "--proxied-wait (20 s)",
    {
        "nginx": "proxy_set_header X-Forwarded-For $remote_addr",
        "HAProxy": "option forwardfor",
        "Envoy": "start the server with --proxied-wait 10s, or raise the timeout of the route (15 s)",
    },
)

SIZE = Advice(
    "raise the proxy's limit for the size of requests, or take it away: the server has limits of its own",
    {
        "nginx": "client_max_body_size 0",
        "Apache": "LimitRequestBody 0",
        "Squid": "request_body_max_size 0",
        "Caddy": "no request_body max_size",
        "h2o": "limit-request-body: 68719476736",
    },
)

BUFFERING = Advice(
    "make the proxy pass uploads on as they arrive: a lease is renewed only by what reaches the server",
    {"nginx": "proxy_request_buffering off", "lighttpd": "server.stream-request-body = 2"},
    {"h2o": "it always stores the whole upload first; let workers send heartbeats while they upload"},
)

SLOW_UPLOAD = Advice(
    "raise the proxy's time limit for a whole request",
    {
        "nginx": "client_body_timeout 60s",
        "HAProxy": "timeout client 11m, and no option http-buffer-request",
        "Apache": "RequestReadTimeout body=60,MinRate=500",
        "h2o": "http1-request-timeout: 86400",
        "Caddy": "no read_body timeout",
    },
)

CUT_UPLOAD = Advice("make the proxy pass on no upload that its client did not end")

HALF_CLOSED = Advice(
    "let workers check the digest in the answer to an upload: this answer is not the server's",
    incurable={"Caddy": "no setting changes this; let workers check the digest in the answer, which is missing here"},
)

CACHE = Advice(
    "make the proxy store no answers, and honour Cache-Control: no-store",
    {"Varnish": "return (pipe) or return (pass) in vcl_recv", "Squid": "cache deny all"},
)

SERIAL = Advice(
    "make the proxy pass equal requests on at the same time",
    {"Varnish": "return (pipe) or return (pass) in vcl_recv"},
)

CAPACITY = Advice(
    "raise the number of requests that the proxy has in progress at the same time, and of its open files",
    {
        "nginx": "worker_connections 32768 and worker_rlimit_nofile 65536",
        "Apache": "ServerLimit 64, ThreadsPerChild 64 and MaxRequestWorkers 4096",
        "HAProxy": "maxconn 20000",
        "h2o": "max-connections: 20000",
        "Envoy": "circuit_breakers with max_connections, max_pending_requests and max_requests 20000",
        "Varnish": "-p thread_pool_max=10000",
    },
)

EXPECT = Advice("make the proxy pass Expect: 100-continue on, or answer it")

OURS = Advice("make the proxy pass these requests on to the server, and the answers back unchanged")

PREFIX = Advice(
    "make the proxy send the prefix that it removes as X-Forwarded-Prefix and name it in --trusted-proxies, or make it "
    "keep the prefix and start the server with --base-path"
)

KEEP_ALIVE = Advice(
    "make the proxy keep connections of clients open between requests; "
    "Varnish closes them where requests are piped, which is right"
)
