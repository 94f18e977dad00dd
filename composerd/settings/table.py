"""The table of settings: names, parsers, help and defaults."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from composerd.identity.roles import Role
from composerd.settings.jwt_table import JWT_SETTINGS
from composerd.settings.setting import Setting
from composerd.settings.values import (
    DEFAULT_ADDRESS,
    WORKER_BASE,
    OneOf,
    address,
    base_path,
    domain,
    duration,
    host,
    mode,
    network,
    nonempty,
    positive_duration,
    positive_size,
    readable_file,
    site_path,
    size,
    switch,
)
from composerd_protocol.units import number

_URLS = frozenset({"storage", "artifacts"})
"""Settings whose values may have passwords."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a server. Durations are in seconds, sizes in bytes. `load` fills in the defaults."""

    listen: tuple[str, ...]
    """Addresses to listen on besides the sockets that systemd passes; empty for the default if it passes none."""
    storage: str
    artifacts: str | None
    base_path: str | None
    """Path below which everything is served; None for the root."""
    worker_base_path: str
    """Base path of the worker API, below `base_path`."""
    request_job_timeout: float
    """Seconds that a worker's request for a job waits if it does not say how long; 0 for no limit."""
    proxied_wait: float
    """Seconds that a request which came through a proxy waits instead, if `request_job_timeout` is not shorter."""
    max_wait: float
    """Longest wait in seconds of a request that says how long."""
    heartbeat_timeout: float
    handover_timeout: float
    sweep_interval: float
    max_retries: int
    worker_timeout: float
    retention: float
    """Seconds that an ended job is kept; 0 to keep jobs until they are deleted."""
    undequeueable_types: tuple[str, ...]
    max_body_size: int
    max_artifact_size: int
    max_artifacts: int
    max_artifacts_size: int
    """Most bytes of all artifacts of one attempt together."""
    min_free_space: int | None
    """Bytes that stay free on the disk; None for a part of the file system."""
    max_retention: float
    """Longest retention in seconds that a job may ask for; 0 for no limit."""
    body_timeout: float
    min_rate: int
    """Lowest rate in bytes a second of a body, an upload or a download that takes longer than `body_timeout`."""
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    tls_identities: str | None
    """Path of the file that gives identities to client certificates."""
    allowed_domains: tuple[str, ...]
    """Domains of accepted client certificates; empty to accept certificates of all domains."""
    socket_identities: str | None
    """Path of the file that gives identities to users and groups on unix sockets."""
    tokens: str | None
    """File with bearer tokens."""
    jwt_keys: tuple[str, ...]
    """URLs and paths of the keys that JWTs are signed with; empty to take no JWTs."""
    jwt_issuer: str | None
    jwt_audience: str | None
    jwt_tenant_claim: tuple[str, ...]
    """Claims that name the tenant; the first that is there counts."""
    jwt_role_claim: str | None
    jwt_role: tuple[tuple[str, Role], ...]
    """Values of the role claim, and the role of each; the first that fits counts."""
    jwt_default_role: Role | None
    jwt_acl: str | None
    """Path of a file with patterns that the claims of JWTs have to match."""
    trusted_proxies: tuple[str, ...]
    """Networks in CIDR notation, and `unix` for peers on unix sockets."""
    allowed_hosts: tuple[str, ...]
    """Hosts that requests may name; empty to accept all."""
    quotas: str | None
    """File with the quotas of tenants."""
    insecure: bool
    """True to listen where other machines can connect although nobody has to say who they are."""
    socket_mode: int
    socket_group: str | None
    max_connections: int
    max_waits: int
    log_level: str
    log_format: Literal["text", "json"]
    drain_timeout: float
    processes: int

    def __repr__(self) -> str:
        """Return the values, but no URL, which may have a password."""
        shown = (f"{name}={'…' if name in _URLS else repr(getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def protected(self) -> bool:
        """True if those who connect from other machines have to say who they are."""
        return self.identified or self.tls_client_ca is not None

    @property
    def identified(self) -> bool:
        """True if requests need an identity, because there is a source of identities."""
        return bool(
            self.tokens or self.jwt_keys or self.tls_identities or self.allowed_domains or self.socket_identities
        )

    @property
    def certificates_suffice(self) -> bool:
        """True if a client certificate is one of several ways to have an identity, so that a token does as well."""
        return bool((self.tokens or self.jwt_keys) and (self.tls_identities or self.allowed_domains))

    @property
    def local_only(self) -> bool:
        """True if the server must not listen where other machines can connect."""
        return not (self.protected or self.insecure)


SETTINGS: Sequence[Setting] = (
    Setting(
        "listen",
        address,
        "Address to listen on: HOST:PORT, [IPV6]:PORT or unix:/path. Port 0 picks a free port.",
        without=f"{DEFAULT_ADDRESS}, unless systemd passes a socket",
        repeatable=True,
    ),
    Setting(
        "storage",
        nonempty,
        "Where jobs are stored: a URL whose scheme names the driver, such as fs:/var/lib/composerd.",
        without="fs: in $STATE_DIRECTORY or your data directory",
    ),
    Setting(
        "artifacts",
        nonempty,
        "Where uploaded files are stored: a directory, the URL of an artifact store, or `none`.",
        without="what the driver offers, else none",
    ),
    Setting("base_path", site_path, "Path below which everything is served, such as /ci."),
    Setting("worker_base_path", base_path, "Base path of the worker API, below base_path.", default=WORKER_BASE),
    Setting(
        "request_job_timeout",
        duration,
        "How long a worker's request for a job waits if it does not say how long; 0: no limit.",
        default="0",
    ),
    Setting(
        "proxied_wait",
        positive_duration,
        "The same for a request that came through a proxy, if that is shorter.",
        default="20s",
    ),
    Setting(
        "max_wait",
        positive_duration,
        "Longest wait of a request that says how long; longer ones are shortened to it.",
        default="10m",
    ),
    Setting(
        "heartbeat_timeout",
        positive_duration,
        "A job is taken back from a worker that has been silent for this long.",
        default="120s",
    ),
    Setting(
        "handover_timeout",
        positive_duration,
        "How long a worker that promised to confirm a job has for the confirmation.",
        default="10s",
    ),
    Setting("sweep_interval", positive_duration, "How often expired leases and retention are checked.", default="5s"),
    Setting(
        "max_retries",
        number(0, 100),
        "How many times a job is tried again after its worker is lost, unless the job sets its own number; 0 to 100.",
        default="2",
    ),
    Setting(
        "worker_timeout",
        positive_duration,
        "A worker is removed from the list of workers when it has been silent for this long.",
        default="1h",
    ),
    Setting(
        "retention",
        duration,
        "How long an ended job and its artifacts are kept, unless the job sets its own retention; 0: until deleted.",
        default="14d",
    ),
    Setting(
        "undequeueable_types",
        nonempty,
        "Job type that workers may not request.",
        default="manifest-id-only",
        repeatable=True,
        may_be_empty=True,
    ),
    Setting("max_body_size", positive_size, "Maximum size of a request body.", default="32MiB"),
    Setting("max_artifact_size", positive_size, "Maximum size of an artifact.", default="64GiB"),
    Setting(
        "max_artifacts", number(1, 100_000), "Maximum number of artifacts of an attempt; 1 to 100000.", default="1000"
    ),
    Setting(
        "max_artifacts_size", positive_size, "Maximum total size of the artifacts of an attempt.", default="256GiB"
    ),
    Setting(
        "min_free_space",
        size,
        "Uploads and submissions are refused when less space is free on the disk; 0: only when it is full.",
        without="5% of the file system, at most 1GiB",
    ),
    Setting(
        "max_retention",
        duration,
        "Longest retention that a job may ask for; 0: no limit.",
        without="a year, or `retention` if that is longer or 0",
    ),
    Setting(
        "body_timeout",
        positive_duration,
        "How long a client may send nothing of a body, or read nothing of an answer.",
        default="30s",
    ),
    Setting(
        "min_rate",
        size,
        "Lowest rate, in bytes a second, of a transfer that takes longer than body_timeout; 0: any.",
        default="16KiB",
    ),
    Setting(
        "tls_cert",
        readable_file,
        "PEM file with the server's certificate; turns on TLS on the TCP addresses. Read again on SIGHUP.",
    ),
    Setting("tls_key", readable_file, "PEM file with the private key of that certificate."),
    Setting(
        "tls_client_ca",
        readable_file,
        "Require TLS clients to present a certificate signed by a CA in this PEM file.",
    ),
    Setting(
        "allowed_domains",
        domain,
        "With --tls-client-ca: domain, such as *.example.com, that a DNS name of the client's certificate must match.",
        without="any",
        repeatable=True,
    ),
    Setting(
        "tls_identities",
        readable_file,
        "With --tls-client-ca: TOML file that gives roles and tenants to the names in client certificates.",
    ),
    Setting(
        "socket_identities",
        readable_file,
        "TOML file that gives roles and tenants to users and groups that connect to unix sockets.",
        without="none: root, the server's user and the socket's group are admin",
    ),
    Setting(
        "tokens",
        readable_file,
        "File with the tokens that `composerd token create` makes; a change is noticed within 2 s.",
    ),
    *JWT_SETTINGS,
    Setting(
        "quotas",
        readable_file,
        "TOML file with the quotas of tenants; a change is noticed within 2 s.",
    ),
    Setting(
        "trusted_proxies",
        network,
        "Address or network of proxies whose X-Forwarded-For names the client, or `unix` for all on unix sockets.",
        repeatable=True,
        may_be_empty=True,
    ),
    Setting(
        "allowed_hosts",
        host,
        "Host that requests may name, such as composer.example.com or *.example.com; others are refused.",
        without="any",
        repeatable=True,
    ),
    Setting(
        "insecure",
        switch,
        "Listen where other machines can connect, although everybody there may do everything.",
        default="false",
    ),
    Setting("socket_mode", mode, "Permissions of the unix sockets, in octal.", default="0660"),
    Setting("socket_group", nonempty, "Group of the unix sockets.", without="that of the process"),
    Setting(
        "max_connections", number(1, 1_000_000), "Maximum number of open connections; 1 to 1000000.", default="20000"
    ),
    Setting("max_waits", number(1, 1_000_000), "Maximum number of waiting requests; 1 to 1000000.", default="20000"),
    Setting(
        "log_level",
        OneOf("debug", "info", "warning", "error"),
        "Least severe level to log: debug, info, warning or error.",
        default="info",
    ),
    Setting(
        "log_format",
        OneOf("text", "json"),
        "Format of the log: text, or json for one JSON object a line.",
        default="text",
    ),
    Setting(
        "drain_timeout", positive_duration, "After SIGTERM, how long to wait for requests in progress.", default="5s"
    ),
    Setting(
        "processes",
        number(1, 64),
        "Number of server processes, 1 to 64. More than 1 requires a storage that servers can share.",
        default="1",
    ),
)
