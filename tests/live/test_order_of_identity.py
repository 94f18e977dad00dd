"""The order in which a server with identities looks at a request: who, whether they may, the quotas, then the body."""

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from composerd.identity.roles import Role

from ..tokens import bearer, new
from .conftest import COMPOSER, WORKER, Serve, Server, send

BAD = f"composerd_{'0' * 44}"


@pytest.fixture
async def secured(serve: Serve, tmp_path: Path) -> tuple[Server, dict[str, str]]:
    """Start a server whose tenant `full` may submit nothing; return it with tokens by name of role and tenant."""
    (tmp_path / "quotas.toml").write_text("[tenants.full]\nsubmissions_per_minute = 0\nopen_waits = 0\n")
    made = {"": "", "bad": BAD}
    for role, tenant in itertools.product(Role, ("free", "full")):
        made[f"{role} {tenant}"] = new(tmp_path / "tokens", f"{role}-{tenant}", role, tenant)
    server = await serve("--tokens", str(tmp_path / "tokens"), "--quotas", str(tmp_path / "quotas.toml"))
    return server, made


async def answer_to_a_head(server: Server, path: str, token: str, *headers: str, wait: float = 10.0) -> str:
    """Send the head of a request whose body never comes, and return the status of the answer; empty without one."""
    reader, writer = await asyncio.open_connection(*server.address)
    credentials = [f"Authorization: Bearer {token}"] if token else []
    head = [f"POST {path} HTTP/1.1", "Host: a", "Content-Length: 1000000", *credentials, *headers]
    writer.write("\r\n".join([*head, "", ""]).encode())
    try:
        async with asyncio.timeout(wait):
            return (await reader.readline()).decode()[9:12]
    except TimeoutError:
        return ""
    finally:
        writer.close()


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["plain", "expecting"])
@pytest.mark.parametrize(
    ("path", "who", "status"),
    [
        (f"{COMPOSER}/jobs", "", "401"),
        (f"{COMPOSER}/jobs", "bad", "401"),
        (f"{COMPOSER}/jobs", "viewer full", "403"),
        (f"{COMPOSER}/jobs", "worker full", "403"),
        (f"{COMPOSER}/jobs", "submitter full", "403"),  # error 46: no wait would help
        (f"{WORKER}/jobs", "", "401"),
        (f"{WORKER}/jobs", "submitter full", "403"),
    ],
)
async def test_a_refusal_needs_no_body(
    secured: tuple[Server, dict[str, str]], path: str, who: str, status: str, expect: tuple[str, ...]
) -> None:
    """A request that is refused for who sends it, or for a quota, is answered before its body has come."""
    server, tokens = secured
    assert await answer_to_a_head(server, path, tokens[who], "Content-Type: application/json", *expect) == status


async def test_a_body_is_asked_for_only_of_those_who_may_send_it(secured: tuple[Server, dict[str, str]]) -> None:
    """A client that expects 100 gets it once nothing but the body can be wrong."""
    server, tokens = secured
    token = tokens["submitter free"]
    kind = "Content-Type: application/json"
    assert await answer_to_a_head(server, f"{COMPOSER}/jobs", token, kind, "Expect: 100-continue") == "100"
    assert await answer_to_a_head(server, f"{COMPOSER}/jobs", token, kind, wait=0.5) == ""


@pytest.mark.parametrize(
    ("who", "number"),
    [("", "29"), ("bad", "29"), ("viewer full", "30"), ("submitter full", "46"), ("submitter free", "3")],
)
async def test_the_first_of_several_faults_is_named(
    secured: tuple[Server, dict[str, str]], who: str, number: str
) -> None:
    """Of a request with every fault, the first in the order is the error; the content type comes last here."""
    server, tokens = secured
    headers = {"Content-Type": "text/csv"} | (bearer(tokens[who]) if tokens[who] else {})
    _, _, body = await send(server, "POST", f"{COMPOSER}/jobs", b"a,b", **headers)
    problem = json.loads(body)
    assert problem["id"] == number
