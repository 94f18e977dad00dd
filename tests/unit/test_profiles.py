"""Profiles: which file has them, what is wrong with one, and what comes before them."""

import os
from pathlib import Path
from typing import Any

import pytest

from composerd_client import OAuth, TokenFile, client_arguments
from composerd_protocol.options import CLIENT_VARIABLES
from composerd_protocol.profiles import find_profile, profiles_file
from composerd_protocol.server_settings import server_settings

SERVER = "https://composer.example.com/ci"

BOTH = f"""\
# two servers
[profiles.default]
server = "{SERVER}"
token_file = "token"

[profiles.staging]
server = "http://127.0.0.1:8700"
ca_file = "~/ca.pem"
proxy = ""
insecure_http = true

[profiles.staging.oauth]
token_url = "https://sso.example.com/token"
client_id = "ci"
client_secret = "s"
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment with two profiles."""
    write(tmp_path, BOTH)
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(directory: Path, text: str, mode: int = 0o600) -> Path:
    """Write the file with the profiles, and return its path."""
    file = directory / "composerd" / "config.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def test_which_file() -> None:
    """The file is in the directory for configuration, which an absolute `XDG_CONFIG_HOME` names."""
    assert profiles_file({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/composerd/config.toml")
    assert profiles_file({"XDG_CONFIG_HOME": "x", "HOME": "/h"}) == Path("/h/.config/composerd/config.toml")
    assert profiles_file({"HOME": "/h"}) == Path("/h/.config/composerd/config.toml")


def test_the_default_profile(environ: dict[str, str], tmp_path: Path) -> None:
    """Without options, the default profile says which server, and who the user is there."""
    settings = server_settings({}, environ)
    assert settings.server == SERVER
    assert settings.token_file == str(tmp_path / "composerd" / "token")
    assert (settings.token, dict(settings.oauth), settings.insecure_http) == (None, {}, False)


def test_a_named_profile(environ: dict[str, str]) -> None:
    """A profile that is named replaces the default one as a whole."""
    settings = server_settings({"profile": "staging"}, environ)
    assert settings.server == "http://127.0.0.1:8700"
    assert settings.ca_file == str(Path("~/ca.pem").expanduser())
    assert (settings.proxy, settings.insecure_http, settings.token_file) == ("", True, None)
    oauth = {"token_url": "https://sso.example.com/token", "client_id": "ci", "client_secret": "s"}
    assert settings.oauth == oauth


def test_no_profile(environ: dict[str, str], tmp_path: Path) -> None:
    """An empty name stands for no profile, and a user without the file has none."""
    assert server_settings({"profile": ""}, environ).server == "http://127.0.0.1:8700"
    assert server_settings({}, {"XDG_CONFIG_HOME": str(tmp_path / "nothing")}).server == "http://127.0.0.1:8700"
    file = tmp_path / "file"
    file.write_text("")
    assert server_settings({}, {"XDG_CONFIG_HOME": str(file)}).token_file is None


@pytest.mark.parametrize(
    "other",
    [
        "https://composer.example.com.evil.com",
        "http://composer.example.com",
        "https://composer.example.com:8443",
        "unix:/x",
    ],
)
def test_a_profile_is_for_its_server(environ: dict[str, str], other: str) -> None:
    """Another origin than that of the default profile gets nothing of it; one that was named is an error."""
    settings = server_settings({"server": other}, environ)
    assert settings == server_settings({"server": other, "profile": ""}, environ)
    assert (settings.token_file, settings.token, settings.oauth) == (None, None, {})
    with pytest.raises(ValueError, match=f"is for {SERVER}, and not for"):
        server_settings({"server": other, "profile": "default"}, environ)
    for same in ("https://composer.example.com", "https://COMPOSER.example.com:443/other"):
        assert server_settings({"server": same}, environ).token_file is not None


def test_what_comes_first(environ: dict[str, str]) -> None:
    """Options come before the environment, and that before the profile; what says who the user is goes together."""
    given = {"token_file": "/given", "ca_file": "/ca"}
    settings = server_settings(given, environ | {"COMPOSERD_TOKEN": "t"})
    assert (settings.token_file, settings.token, settings.ca_file) == ("/given", None, "/ca")
    settings = server_settings({}, environ | {"COMPOSERD_TOKEN": "t", "COMPOSERD_OAUTH_TOKEN_URL": "u"})
    assert (settings.token_file, settings.token, settings.oauth) == (None, "t", {})
    settings = server_settings({}, environ | {"COMPOSERD_OAUTH_TOKEN_URL": "u", "COMPOSERD_OAUTH_REFRESH_TOKEN": "r"})
    assert (settings.token_file, settings.oauth) == (None, {"token_url": "u", "refresh_token": "r"})
    of_environment = {"COMPOSERD_OAUTH_CLIENT_SECRET_FILE": "/secret", "COMPOSERD_OAUTH_SCOPE": "x"}
    settings = server_settings({"profile": "staging"}, environ | of_environment)
    assert settings.oauth == {
        "token_url": "https://sso.example.com/token",
        "client_id": "ci",
        "client_secret_file": "/secret",
        "scope": "x",
    }
    with pytest.raises(ValueError, match="COMPOSERD_OAUTH_TOKEN_URL, to which it belongs, is not"):
        server_settings({}, environ | {"COMPOSERD_OAUTH_CLIENT_ID": "x"})
    assert set(of_environment) | {"COMPOSERD_TOKEN", "COMPOSERD_PROFILE"} <= CLIENT_VARIABLES


def test_a_certificate_goes_with_its_key(tmp_path: Path) -> None:
    """A certificate that is given does not get the key of the profile."""
    write(tmp_path, '[profiles.default]\nserver = "https://a"\ncert_file = "/c"\nkey_file = "/k"')
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert server_settings({}, environ)[2:4] == ("/c", "/k")
    assert server_settings({"cert_file": "/own"}, environ)[2:4] == ("/own", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[profiles.a", "is not TOML"),
        ("x = 1", "line 1: there is no key x"),
        ("profiles = 1", "line 1: profiles is not a table"),
        ("[profiles]\na = 1", "line 2: profiles.a is not a table"),
        ('[profiles.a]\nserver = "u"\ntokenfile = "x"', "line 3: there is no key profiles.a.tokenfile"),
        ('[profiles.a]\nserver = "u"\n[profiles.a.oauth]\nurl = "x"', "line 4: there is no key profiles.a.oauth.url"),
        ('[profiles.a]\nserver = "u"\noauth = 1', "line 3: oauth is not a table"),
        (
            '[profiles.a]\nserver = "u"\n[profiles.a.oauth]\nrefresh_token = "x"',
            "line 4: a refresh token cannot",
        ),
        ('[profiles.a]\nserver = "u"\n[profiles.a.oauth]\nclient_id = "x"', "line 3: oauth needs the URL"),
        ("[profiles.a]\nserver = 1", "line 2: server must be text in quotes"),
        ('[profiles.a]\nserver = "u"\ninsecure_http = "yes"', "line 3: insecure_http must be true or false"),
        ('[profiles.a]\ntoken = "t"', "line 1: the profile 'a' names no server"),
        ('[profiles.a]\nserver = "u"\ntoken = "t"\ntoken_file = "f"', "line 3: token and token_file are alternatives"),
        ('[profiles."a b"]\nserver = "u"', "line 1: 'a b' is not the name of a profile"),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    """A mistake in the file is an error that names the file and the line."""
    file = write(tmp_path, text)
    with pytest.raises(ValueError, match=said) as raised:
        find_profile(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert str(raised.value).startswith(str(file))


@pytest.mark.parametrize(
    ("mode", "secret", "said"),
    [
        (0o644, True, "may read the secrets in .*: forbid that with `chmod 600"),
        (0o640, True, "may read the secrets"),
        (0o622, False, "may write to .*: forbid that with `chmod go-w"),
        (0o620, False, "may write to"),
        (0o644, False, None),
        (0o600, True, None),
    ],
)
def test_who_else_may_use_it(tmp_path: Path, mode: int, secret: bool, said: str | None) -> None:
    """A file with a secret that others may read is refused, and one that others may change in any case."""
    write(tmp_path, f'[profiles.default]\nserver = "https://a"\n{"token" if secret else "token_file"} = "t"', mode)
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    if said is None:
        assert find_profile(None, environ) is not None
        return
    with pytest.raises(ValueError, match=said):
        find_profile(None, environ)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user(tmp_path: Path) -> None:
    """A file of another user, who can change it, is refused."""
    os.chown(write(tmp_path, BOTH), 12345, -1)
    with pytest.raises(ValueError, match="belongs to another user"):
        find_profile(None, {"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_profile_that_is_not_there(environ: dict[str, str], tmp_path: Path) -> None:
    """The error for a profile that does not exist says how to make one, and which there are."""
    with pytest.raises(ValueError, match="composerd login --profile prod` makes one; there are: default, staging"):
        find_profile("prod", environ)
    with pytest.raises(ValueError, match="there is no profile 'prod': `composerd login --profile prod`"):
        find_profile("prod", {"XDG_CONFIG_HOME": str(tmp_path / "nothing")})


def test_the_arguments_of_a_client(environ: dict[str, str], tmp_path: Path) -> None:
    """A program can make its clients as the commands do."""
    (tmp_path / "composerd" / "token").write_text("t")
    arguments: dict[str, Any] = client_arguments(environ=environ)
    assert arguments["server"] == SERVER
    assert isinstance(arguments["credentials"], TokenFile)
    (tmp_path / "ca.pem").write_text("")
    write(tmp_path, BOTH.replace('ca_file = "~/ca.pem"\n', ""))
    arguments = client_arguments(environ=environ, profile="staging")
    assert isinstance(arguments["credentials"], OAuth)
    assert arguments["proxy"] == ""
    assert client_arguments(environ={"XDG_CONFIG_HOME": "/nowhere"}) == {"server": "http://127.0.0.1:8700"}
