"""The proxies that tests run: how each is started with the documented or the default configuration."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

DOCUMENTED = Path(__file__).parents[2] / "docs" / "examples" / "proxies"
AS_THEY_COME = Path(__file__).parent / "as_they_come"

LISTEN, SERVER = "8080", "127.0.0.1:8700"
"""The port that a proxy listens on and the address of its server, in every configuration."""

_NGINX_PATHS = "".join(
    f"    {kind}_temp_path SCRATCH/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)

_APACHE = """\
ServerRoot SCRATCH
DefaultRuntimeDir SCRATCH
PidFile SCRATCH/pid
ServerName localhost
ErrorLog SCRATCH/error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule reqtimeout_module /usr/lib/apache2/modules/mod_reqtimeout.so
User www-data
Group www-data
Timeout 300
KeepAlive On
MaxKeepAliveRequests 100
KeepAliveTimeout 5
StartServers 2
MinSpareThreads 25
MaxSpareThreads 75
ThreadLimit 64
ThreadsPerChild 25
MaxRequestWorkers 150
MaxConnectionsPerChild 0
RequestReadTimeout header=20-40,minrate=500
RequestReadTimeout body=10,minrate=500
"""
"""Settings of Debian's files."""


class Proxy(NamedTuple):
    """A proxy with a configuration."""

    name: str
    package: str
    """Debian's package of it."""
    program: str
    configuration: Path
    adapted: Callable[[str], str]
    """Adds what the machine or the distribution would to the text of the configuration; SCRATCH is a directory."""
    arguments: Callable[[str, int, Path], list[str]]
    """Makes the arguments of the program from the address, the port and the directory of its files."""

    def command(self, address: str, port: int, server: tuple[str, int], scratch: Path) -> list[str]:
        """Write the configuration into a directory, and return the command line that starts the proxy with it.

        It listens on the address and port, passes requests on to the server, and stays in the foreground.
        """
        program = shutil.which(self.program, path="/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
        assert program is not None
        text = self.adapted(self.configuration.read_text(encoding="utf-8"))
        host, number = server
        text = text.replace(SERVER, f"{host}:{number}")
        text = text.replace('host = "127.0.0.1"', f'host = "{host}"').replace('port = "8700"', f'port = "{number}"')
        text = text.replace("ADDRESS", address).replace("PORT", str(port))
        (scratch / "configuration").write_text(text.replace("SCRATCH", str(scratch)), encoding="utf-8")
        return [program, *self.arguments(address, port, scratch)]


def nginx_adapted(text: str) -> str:
    """Return a configuration of nginx that keeps its files in a directory of the test."""
    text = text.replace(f"listen {LISTEN}", "listen ADDRESS:PORT").replace("listen 8700", "listen ADDRESS:PORT")
    text = text.replace("http {\n", f"http {{\n{_NGINX_PATHS}    access_log off;\n", 1)
    return text.replace("    access_log off;\n    access_log off;\n", "    access_log off;\n").replace("32768", "4096")


def _nginx_arguments(_address: str, _port: int, scratch: Path) -> list[str]:
    options = f"daemon off; pid {scratch}/pid;"
    return ["-p", str(scratch), "-e", "stderr", "-c", str(scratch / "configuration"), "-g", options]


def _haproxy(text: str) -> str:
    return text.replace(f"bind :{LISTEN}", "bind ADDRESS:PORT")


def _apache(text: str) -> str:
    return _APACHE + text.replace(f"Listen {LISTEN}", "Listen ADDRESS:PORT").replace(f"*:{LISTEN}", "*:PORT")


def _varnish_arguments(parameters: list[str]) -> Callable[[str, int, Path], list[str]]:
    def arguments(address: str, port: int, scratch: Path) -> list[str]:
        files = ["-n", str(scratch / "varnish"), "-f", str(scratch / "configuration")]
        return ["-F", "-j", "none", "-a", f"{address}:{port}", *files, *parameters]

    return arguments


def documented_parameters() -> list[str]:
    """Return the parameters of the documented command line of Varnish."""
    text = (DOCUMENTED / "varnish.service.conf").read_text(encoding="utf-8").replace("\\\n", " ")
    line = shlex.split(text.rpartition("ExecStart=")[2])
    return line[line.index("-p") :]


def _caddy(text: str) -> str:
    options = "{\n\tadmin off\n\tauto_https off\n"
    text = text.replace(f":{LISTEN} {{", "http://:PORT {\n\tbind ADDRESS", 1)
    return text.replace("{\n\tservers", f"{options}\tservers") if "\tservers" in text else f"{options}}}\n{text}"


def _proxies(configurations: Path, varnish_parameters: list[str]) -> list[Proxy]:
    def with_file(*options: str) -> Callable[[str, int, Path], list[str]]:
        return lambda _address, _port, scratch: [*options, str(scratch / "configuration")]

    caddy = with_file("run", "--adapter", "caddyfile", "--config")
    varnish = _varnish_arguments(varnish_parameters)
    return [
        Proxy("nginx", "nginx", "nginx", configurations / "nginx.conf", nginx_adapted, _nginx_arguments),
        Proxy("haproxy", "haproxy", "haproxy", configurations / "haproxy.cfg", _haproxy, with_file("-db", "-f")),
        Proxy(
            "apache", "apache2-bin", "apache2", configurations / "apache.conf", _apache, with_file("-DFOREGROUND", "-f")
        ),
        Proxy("varnish", "varnish", "varnishd", configurations / "varnish.vcl", str, varnish),
        Proxy("caddy", "caddy", "caddy", configurations / "Caddyfile", _caddy, caddy),
    ]


RIGHT = {proxy.name: proxy for proxy in _proxies(DOCUMENTED, documented_parameters())}
"""The proxies with the documented configurations, by name."""

UNTOUCHED = {proxy.name: proxy for proxy in _proxies(AS_THEY_COME, [])}
"""The proxies with their default configuration: only the addresses are set."""
