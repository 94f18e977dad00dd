"""The command `composerd probe`, through each proxy with the documented and with the default configuration."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..live.conftest import COMPOSER, Server
from ..live.test_cli import composerd
from .conftest import starting
from .kinds import RIGHT, UNTOUCHED

pytestmark = pytest.mark.timeout(240)

WAIT = 90

NOTED = {"apache": {"a waiting worker"}, "varnish": {"two requests"}, "caddy": {"uploads after which"}}
"""Faults that stay with the documented configurations: beginnings of the checks."""

WRONG = {
    "nginx": {
        "a wait of 90 s",
        "a wait that does not say how long",
        "an upload with a length",
        "an upload in chunks",
        "args of",
        "300 workers",
    },
    "haproxy": {
        "a waiting worker closes",
        "a waiting worker resets",
        "a wait of 90 s",
        "a wait that does not say how long",
    },
    "apache": {"300 workers", "heartbeats while"},
    "varnish": {"a waiting worker closes", "a waiting worker resets", "a wait of 90 s", "three equal waits"},
    "caddy": set[str](),
}
"""Faults of the proxies in their default configuration."""

PERHAPS = {"nginx": ("heartbeats while",)}
"""Faults that may be found as well, by what gets the connections that there are."""

CHANGE = {
    "nginx": [
        "worker_connections 32768",
        "proxy_read_timeout 11m",
        "client_max_body_size 0",
        "X-Forwarded-For $remote_addr",
    ],
    "haproxy": ["option abortonclose", "timeout client 11m", "option forwardfor"],
    "apache": ["MaxRequestWorkers 4096"],
    "varnish": ["return (pipe)"],
    "caddy": [],
}
"""Advice on what has to be changed."""


class Probed(NamedTuple):
    """Outcome of a probe."""

    code: int
    findings: list[dict[str, Any]]

    def having(self, outcome: str) -> list[str]:
        """Return the checks that ended so."""
        return [one["check"] for one in self.findings if one["outcome"] == outcome]


@pytest.fixture(scope="module")
def probed(directory: Path) -> Mapping[tuple[str, str], Probed]:
    """Probe a server through all proxies at the same time, with a wait of 90 s; then see that no job is left."""
    return asyncio.run(_probed(directory))


async def _probed(directory: Path) -> Mapping[tuple[str, str], Probed]:
    server = Server("memory:", ("--artifacts", str(directory / "files")), {})
    await server.start()
    try:
        async with starting(directory) as run:
            kinds = [("right", name, proxy) for name, proxy in RIGHT.items()]
            kinds += [("untouched", name, proxy) for name, proxy in UNTOUCHED.items()]
            running = await asyncio.gather(*(run(proxy, server) for _, _, proxy in kinds))
            urls = [server.url, *(one.url for one in running)]
            ended = await asyncio.gather(*(_probe(url) for url in urls))
        assert (await server.request("GET", f"{COMPOSER}/jobs"))[1]["items"] == []
        keys = [("direct", ""), *((how, name) for how, name, _ in kinds)]
        return dict(zip(keys, ended, strict=True))
    finally:
        await server.close()


async def _probe(url: str) -> Probed:
    ended = await composerd("probe", url, "--wait", f"{WAIT}s", "--json")
    return Probed(ended.code, json.loads(ended.out or "[]"))


def test_direct(probed: Mapping[tuple[str, str], Probed]) -> None:
    """Nothing is wrong without a proxy."""
    direct = probed["direct", ""]
    assert (direct.code, direct.having("wrong"), direct.having("note")) == (0, [], [])
    assert len(direct.findings) == 17


@pytest.mark.parametrize("name", RIGHT)
def test_documented(name: str, probed: Mapping[tuple[str, str], Probed]) -> None:
    """Nothing is wrong with the documented configuration, a wait of 90 s included; what stays wrong is noted."""
    found = probed["right", name]
    assert (found.code, found.having("wrong")) == (0, [])
    assert all(any(check.startswith(noted) for noted in NOTED.get(name, ())) for check in found.having("note"))


@pytest.mark.parametrize("name", UNTOUCHED)
def test_as_they_come(name: str, probed: Mapping[tuple[str, str], Probed]) -> None:
    """A probe names what is wrong with a proxy in its default configuration, and the setting that changes it."""
    found = probed["untouched", name]
    wrong = found.having("wrong")
    assert found.code == (1 if WRONG[name] else 0)
    for beginning in WRONG[name]:
        assert any(check.startswith(beginning) for check in wrong), (beginning, wrong)
    assert not [check for check in wrong if not check.startswith((*WRONG[name], *PERHAPS.get(name, ())))]
    changes = " ".join(one["change"] for one in found.findings)
    for change in CHANGE[name]:
        assert change in changes
