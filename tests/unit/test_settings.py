"""The settings of a server: their origins, their precedence, and errors about invalid ones."""

from pathlib import Path

import pytest

from composerd.settings import SETTINGS, Setting, Settings, SettingsError, load
from composerd.settings.environment import is_foreign
from composerd_protocol.units import parse_duration

from ..rows import table_of

HOME = {"HOME": "/home/somebody"}


def write(directory: Path, text: str) -> Path:
    """Write a configuration file, and return its path."""
    path = directory / "composerd.toml"
    path.write_text(text)
    return path


def test_the_defaults() -> None:
    """Without any value set, every setting has its default, and jobs are stored in the user's data directory."""
    assert load({}, HOME, None) == Settings(
        listen=(),
        storage="fs:/home/somebody/.local/share/composerd",
        artifacts=None,
        base_path=None,
        worker_base_path="/api/worker/v1",
        request_job_timeout=0,
        proxied_wait=20,
        max_wait=600,
        heartbeat_timeout=120,
        handover_timeout=10,
        sweep_interval=5,
        max_retries=2,
        worker_timeout=3600,
        retention=14 * 86400,
        undequeueable_types=("manifest-id-only",),
        max_body_size=32 * 1024**2,
        max_artifact_size=64 * 1024**3,
        max_artifacts=1000,
        max_artifacts_size=256 * 1024**3,
        min_free_space=None,
        max_retention=365 * 86400,
        body_timeout=30,
        min_rate=16 * 1024,
        tls_cert=None,
        tls_key=None,
        tls_client_ca=None,
        tls_identities=None,
        allowed_domains=(),
        socket_identities=None,
        tokens=None,
        quotas=None,
        jwt_keys=(),
        jwt_issuer=None,
        jwt_audience=None,
        jwt_tenant_claim=(),
        jwt_role_claim=None,
        jwt_role=(),
        jwt_default_role=None,
        jwt_acl=None,
        trusted_proxies=(),
        allowed_hosts=(),
        insecure=False,
        socket_mode=0o660,
        socket_group=None,
        max_connections=20000,
        max_waits=20000,
        log_level="info",
        log_format="text",
        drain_timeout=5,
        processes=1,
    )


def test_the_shown_defaults() -> None:
    """Setting every default as the help shows it gives the same settings as setting nothing."""
    shown = {setting.name: setting.shown_default for setting in SETTINGS if setting.default is not None}
    assert len(shown) == len(SETTINGS) - 25
    assert load(shown, HOME, None) == load({}, HOME, None)


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.default is not None])
def test_the_documented_defaults(setting: Setting) -> None:
    """The reference names the same default as the help."""
    (documented,) = [row.cells[1] for row in table_of("Settings") if row.name == setting.option]
    assert documented == f"`{setting.default}`"


def test_the_strongest_wins(tmp_path: Path) -> None:
    """Options override the environment, which overrides the file, which overrides the defaults."""
    config = write(tmp_path, '[composerd]\nmax_retries = 5\nheartbeat_timeout = "5s"\nsweep_interval = "50ms"\n')
    environ = HOME | {"COMPOSERD_MAX_RETRIES": "6", "COMPOSERD_HEARTBEAT_TIMEOUT": "6s"}
    settings = load({"max_retries": "7"}, environ, config)
    assert (settings.max_retries, settings.heartbeat_timeout, settings.sweep_interval) == (7, 6, 0.05)


def test_repeatable_settings(tmp_path: Path) -> None:
    """A repeatable setting takes several options, several words in the environment, and a list in the file."""
    config = write(tmp_path, '[composerd]\nlisten = ["127.0.0.1:1", "unix:/x"]\nundequeueable_types = "a"\n')
    assert load({}, HOME, config).listen == ("127.0.0.1:1", "unix:/x")
    assert load({}, HOME, config).undequeueable_types == ("a",)
    assert load({}, HOME | {"COMPOSERD_LISTEN": "a:1 b:2"}, config).listen == ("a:1", "b:2")
    assert load({"listen": ["c:3"]}, HOME, config).listen == ("c:3",)


def test_systemd_says_where_state_is() -> None:
    """By default jobs are stored in the first directory of $STATE_DIRECTORY."""
    assert load({}, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, None).storage == "fs:/var/lib/a"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("listen = []", "must not be empty"),
        ('listen = [["a:1"]]', "must be a text or a number"),
        ("listen = {a = 1}", "must be a text or a number"),
        ('listen = "unix:"', "is not an address"),
        ('listen = "a..b:80"', "is not an address"),
        ('listen = "127.0.0.1:65536"', "is not an address"),
        ('listen = "unix:/tmp/a\\u0000b"', "has characters that are not printable"),
        ('artifacts = "/tmp/a\\u0000b"', "has characters that are not printable"),
        ("max_waits = 2026-01-01", "must be a text or a number"),
        ("max_waits = 1.0", "is not a number"),
        ("max_waits = true", "is not a number"),
        ('retention = "4000d"', "longer than ten years"),
        ('heartbeat_timeout = "99999999d"', "longer than ten years"),
        ('worker_base_path = "/api/../v1"', "has a segment . or .."),
    ],
)
def test_bad_values_of_a_file(value: str, said: str, tmp_path: Path) -> None:
    """A TOML value that the setting cannot have is an error that names the setting."""
    config = write(tmp_path, f"[composerd]\n{value}\n")
    with pytest.raises(
        SettingsError, match=f"invalid value for {value.partition(' ')[0]} in the configuration file .*: .*{said}"
    ):
        load({}, HOME, config)


def test_lists_that_are_empty(tmp_path: Path) -> None:
    """An empty list is accepted for the types that workers may not request, and for no other setting."""
    assert load({}, HOME, write(tmp_path, "[composerd]\nundequeueable_types = []\n")).undequeueable_types == ()
    for variable in ("COMPOSERD_LISTEN", "COMPOSERD_ALLOWED_DOMAINS"):
        with pytest.raises(SettingsError, match=f"invalid value for {variable} in the environment: must not be empty"):
            load({}, HOME | {variable: " "}, None)


BAD = {
    "listen": "",
    "storage": "",
    "artifacts": "",
    "base_path": "ci",
    "worker_base_path": "api",
    "proxied_wait": "0",
    "max_wait": "0s",
    "request_job_timeout": "soon",
    "heartbeat_timeout": "0s",
    "handover_timeout": "-1s",
    "sweep_interval": "5",
    "max_retries": "many",
    "retention": "for ever",
    "worker_timeout": "0",
    "undequeueable_types": "",
    "max_body_size": "0",
    "max_artifact_size": "big",
    "max_artifacts": "0",
    "max_artifacts_size": "0",
    "min_free_space": "some",
    "max_retention": "-1s",
    "body_timeout": "0",
    "min_rate": "fast",
    "tls_cert": "/nowhere/cert.pem",
    "tls_key": "/",
    "tls_client_ca": "",
    "allowed_domains": "http://example.com",
    "tls_identities": "/nowhere.toml",
    "socket_identities": "/nowhere.toml",
    "tokens": "/nowhere/tokens",
    "quotas": "/nowhere/quotas",
    "jwt_keys": "http://sso.example.com/keys",
    "jwt_issuer": "",
    "jwt_audience": "",
    "jwt_tenant_claim": "",
    "jwt_role_claim": "",
    "jwt_role": "builders",
    "jwt_default_role": "root",
    "jwt_acl": "/nowhere/acl.yml",
    "trusted_proxies": "proxy",
    "allowed_hosts": "http://example.com",
    "insecure": "yes",
    "socket_mode": "888",
    "socket_group": "",
    "max_connections": "0",
    "max_waits": "-1",
    "log_level": "loud",
    "log_format": "xml",
    "drain_timeout": "0",
    "processes": "65",
}


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS])
def test_a_bad_value_is_named_with_its_origin(name: str, tmp_path: Path) -> None:
    """An invalid value is an error that names the setting and the origin of the value."""
    setting = next(one for one in SETTINGS if one.name == name)
    with pytest.raises(SettingsError, match=f"invalid value for {setting.option}: "):
        load({name: [BAD[name]] if setting.repeatable else BAD[name]}, HOME, None)
    config = write(tmp_path, f'[composerd]\n{name} = ["{BAD[name]}"]\n')
    with pytest.raises(SettingsError, match=f"invalid value for {name} in the configuration file {config}: "):
        load({}, HOME, config)
    if not setting.repeatable:
        with pytest.raises(SettingsError, match=f"invalid value for {setting.variable} in the environment: "):
            load({}, HOME | {setting.variable: BAD[name]}, None)


def test_passwords_are_not_shown() -> None:
    """Neither the text of settings nor an error about a value has the password in a URL."""
    secret = "postgresql://u:c0mp0serd@h/d?password=c0mp0serd"
    settings = load({"storage": secret, "artifacts": secret}, HOME, None)
    assert settings.storage == secret
    assert "c0mp0serd" not in repr(settings)
    assert "max_retries=2" in repr(settings)
    for name in ("storage", "artifacts"):
        with pytest.raises(SettingsError, match="not printable") as refused:
            load({}, HOME | {f"COMPOSERD_{name.upper()}": f"{secret}\n"}, None)
        assert "c0mp0serd" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("tls_cert",), "tls_key"),
        (("tls_key",), "tls_cert"),
        (("tls_client_ca",), "tls_cert"),
        (("allowed_domains",), "tls_client_ca"),
        (("tls_identities",), "tls_client_ca"),
        (("allowed_domains", "tls_cert", "tls_key"), "tls_client_ca"),
    ],
)
def test_settings_that_need_another(given: tuple[str, ...], missing: str) -> None:
    """A setting that requires another one is an error without it."""
    values = dict.fromkeys(given, __file__) | ({"allowed_domains": ["a"]} if "allowed_domains" in given else {})
    with pytest.raises(SettingsError, match=f"{given[0]} requires {missing}"):
        load(values, HOME, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[composerd]\nmax_retrys = 5\n", "'max_retrys', but there is no such setting"),
        ("max_retries = 5\n", "move it into the table"),
        ("composerd = 5\n", "not a table"),
        ("[composerd\n", "is not valid TOML"),
    ],
)
def test_a_bad_file(text: str, said: str, tmp_path: Path) -> None:
    """An unknown or misplaced name, or a file that is not TOML, is an error that names the file."""
    with pytest.raises(SettingsError, match=said):
        load({}, HOME, write(tmp_path, text))


def test_no_file(tmp_path: Path) -> None:
    """A missing configuration file is an error."""
    with pytest.raises(SettingsError, match="cannot read the configuration file"):
        load({}, HOME, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("COMPOSERD_MAX_RETRYS", "5"),
        ("COMPOSERD_PORT", "8700"),
        ("COMPOSERD_SERVICE", "x"),
        ("COMPOSERD_TCP", "x"),
        ("COMPOSERD_ARCH", "x86_64"),
        ("COMPOSERD_JOBS", "5"),
    ],
)
def test_an_unknown_variable(variable: str, value: str) -> None:
    """An unknown variable in the environment is an error."""
    with pytest.raises(SettingsError, match=f"{variable} is set, but there is no setting"):
        load({}, HOME | {variable: value}, None)


def test_variables_of_the_client() -> None:
    """The variables of client commands are ignored."""
    names = ("SERVER", "PROXY", "CA_FILE", "CERT_FILE", "KEY_FILE")
    assert load({}, HOME | {f"COMPOSERD_{name}": "x" for name in names}, None) == load({}, HOME, None)


SERVICES = ("", "_SERVER", "_JOB", "_STORAGE", "_MAX_RETRIES", "_1")
"""Ends of the names of services that begin with `composerd`, as Kubernetes writes them in variables."""


@pytest.mark.parametrize("service", SERVICES)
def test_variables_that_kubernetes_makes(service: str) -> None:
    """The variables that Kubernetes makes for services whose names begin with `composerd` are ignored."""
    made = {
        "SERVICE_HOST": "10.0.0.11",
        "SERVICE_PORT": "8700",
        "SERVICE_PORT_HTTP": "8700",
        "SERVICE_PORT_WEB_2": "8701",
        "PORT": "tcp://10.0.0.11:8700",
        **{
            f"PORT_8700_{protocol}{end}": value
            for protocol in ("TCP", "UDP", "SCTP")
            for end, value in (
                ("", "tcp://10.0.0.11:8700"),
                ("_PROTO", "tcp"),
                ("_PORT", "8700"),
                ("_ADDR", "10.0.0.11"),
            )
        },
    }
    assert load({}, HOME | {f"COMPOSERD{service}_{end}": text for end, text in made.items()}, None) == load(
        {}, HOME, None
    )


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_setting_is_ignored(setting: Setting) -> None:
    """The variable of a setting is never taken for one of Kubernetes, of a client or of a job."""
    for value in ("x", "tcp://10.0.0.11:8700"):
        assert not is_foreign(setting.variable, {setting.variable: value})


def test_variables_of_a_job() -> None:
    """A job's own variables are ignored; one with an earlier name only if the value is the job's."""
    own = {
        f"COMPOSERD_JOB_{name}": f"/job/{name}"
        for name in ("ID", "TYPE", "ARCH", "ARTIFACTS", "RESULT", "PROGRESS", "DYNAMIC_ARGS", "LATER")
    }
    aliases = {
        f"COMPOSERD_{name}": f"/job/{name}" for name in ("ARCH", "ARTIFACTS", "RESULT", "PROGRESS", "DYNAMIC_ARGS")
    }
    assert load({}, HOME | own | aliases, None) == load({}, HOME, None)
    assert load({}, HOME | own | {"COMPOSERD_ARTIFACTS": "/srv"}, None).artifacts == "/srv"
    with pytest.raises(SettingsError, match="COMPOSERD_RESULT"):
        load({}, HOME | own | {"COMPOSERD_RESULT": "/srv"}, None)


@pytest.mark.parametrize(
    ("given", "longest"),
    [
        ({}, "365d"),
        ({"retention": "700d"}, "700d"),
        ({"retention": "0"}, "0"),
        ({"max_retention": "20d"}, "20d"),
        ({"max_retention": "0"}, "0"),
        ({"retention": "0", "max_retention": "0"}, "0"),
    ],
)
def test_the_longest_retention(given: dict[str, str], longest: str) -> None:
    """A job may ask for a retention of a year, or of the server's own if that is longer, unless a limit is set."""
    assert load(given, HOME, None).max_retention == parse_duration(longest)


@pytest.mark.parametrize("own", ["14d", "0"])
def test_a_longest_retention_that_is_shorter_than_the_servers_own(own: str) -> None:
    """A limit below the server's own retention is an error that names both."""
    with pytest.raises(SettingsError, match=rf"max_retention \(1d\) is shorter than retention \({own}"):
        load({"max_retention": "1d", "retention": own}, HOME, None)
