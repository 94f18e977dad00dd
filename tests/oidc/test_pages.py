"""The pages about identity providers: their commands are run as they stand there, with a real provider."""

import re
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from ..live.conftest import LOOPBACK
from ..live.shell_pages import TOP, Reader
from ..tokens import bearer
from .provider import AUDIENCE, SECRET, Provider, running

SSO = "https://sso.example.com"
ISSUER = f"{SSO}/realms/builds"
OSBUILD_PAGE = "docs/how-to/osbuild-fleet.md"


def client(id: str, role: str, **options: Any) -> Mapping[str, Any]:
    """Return a client as Keycloak would have it: with realm roles, and a tenant."""
    claims = {"tenant": "acme", "realm_access": {"roles": ["offline_access", f"composerd-{role}"]}}
    return {"client_id": id, "claims": claims, **options}


def names(provider: Provider) -> Mapping[str, str]:
    """Return what is typed in place of the page's names."""
    endpoints = f"{ISSUER}/protocol/openid-connect"
    return {
        f"{endpoints}/certs": provider.keys_url,
        f"{endpoints}/token": provider.token_url,
        ISSUER: provider.issuer,
        "https://composerd.example.com": AUDIENCE,
    }


async def test_use_your_identity_provider(oidc_modules: Path, tmp_path: Path) -> None:
    """The commands of the page about identity providers make a server that takes the tokens of one."""
    clients = [
        client("builder-7", "worker", token_endpoint_auth_method="client_secret_basic"),
        client("ci", "submitter", token_endpoint_auth_method="client_secret_basic"),
    ]
    for file in ("builder-7.secret", "ci.secret"):
        (tmp_path / file).write_text(SECRET)
    async with running(oidc_modules, clients) as provider:
        await Reader(tmp_path, names(provider)).read("docs/how-to/identity-provider.md")


class OsbuildWorker:
    """Behaves as osbuild-worker does, with the configuration that the page shows."""

    def __init__(self, configuration: str, files: Path, token_url: str, http: aiohttp.ClientSession) -> None:
        """Read the configuration. The files that it names are in a folder."""
        found = tomllib.loads(configuration)["authentication"]
        assert found["oauth_url"] == f"{SSO}/token"
        self._token_url = token_url
        self._form = {"client_id": found["client_id"]}
        if "offline_token" in found:
            token = (files / Path(found["offline_token"]).name).read_text()
            self._form |= {"grant_type": "refresh_token", "refresh_token": token}
        if "client_secret" in found:
            secret = (files / Path(found["client_secret"]).name).read_text()
            self._form |= {"grant_type": "client_credentials", "client_secret": secret}
        self._http = http
        self._token = ""

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request, and send it again with a new token if it is refused. Return the status and the answer."""
        for _ in range(2):
            async with self._http.request(method, path, json=body, headers=bearer(self._token)) as answer:
                if answer.status != 401:
                    return answer.status, await answer.json()
            async with self._http.post(self._token_url, data=self._form) as answer:
                self._token = (await answer.json())["access_token"]
        raise AssertionError("the new token is refused too")


async def test_an_osbuild_fleet(oidc_modules: Path, tmp_path: Path) -> None:
    """The commands of the page about osbuild make a server for workers that are configured as it shows."""
    claims = {"rh-org-id": "123456"}
    offline = {"grant_types": ["refresh_token"], "token_endpoint_auth_method": "none"}
    clients = [{"client_id": "builder-7", "claims": claims}, {"client_id": "rhsm-api", "claims": claims, **offline}]
    authority = trustme.CA()
    server = authority.issue_cert(LOOPBACK)
    authority.cert_pem.write_to_path(tmp_path / "ca-crt.pem")
    server.private_key_pem.write_to_path(tmp_path / "server.key")
    server.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with running(oidc_modules, clients) as provider:
        replaced = {
            f"{SSO}/certs": provider.keys_url,
            SSO: provider.issuer,
            "https://composerd.example.com": AUDIENCE,
            "/etc/osbuild-composer/ca-crt.pem": str(tmp_path / "ca-crt.pem"),
        }
        (tmp_path / "client-secret").write_text(SECRET)
        (tmp_path / "offline-token").write_text(await provider.refresh_token("rhsm-api"))
        page = (TOP / OSBUILD_PAGE).read_text(encoding="utf-8")
        configurations = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        assert len(configurations) == 2
        reader = Reader(tmp_path, replaced)
        async with (
            reader.reading(OSBUILD_PAGE),
            aiohttp.ClientSession(f"https://{reader.address}", connector=aiohttp.TCPConnector(ssl=context)) as http,
        ):
            for configuration in configurations:
                worker = OsbuildWorker(configuration, tmp_path, provider.token_url, http)
                status, registered = await worker.request("POST", "/api/worker/v1/workers", {"arch": "x86_64"})
                assert status == 201
                wanted = {"types": ["osbuild"], "arch": "x86_64", "worker_id": registered["worker_id"]}
                status, job = await worker.request("POST", "/api/worker/v1/jobs", wanted)
                assert (status, job["args"]) == (201, {"manifest": {}})
                assert (await worker.request("PATCH", job["location"], {"result": {"success": True}}))[0] == 200
