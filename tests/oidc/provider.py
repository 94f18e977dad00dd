"""A certified OpenID provider, `oidc-provider` of npm, as a process that tests control."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

AUDIENCE = "https://composer.example.com"

SECRET = "secret-of-a-client"

_CONFIDENTIAL: Mapping[str, Any] = {
    "grant_types": ["client_credentials"],
    "token_endpoint_auth_method": "client_secret_post",
}

CLIENTS: Sequence[Mapping[str, Any]] = (
    {"client_id": "builder-7", "claims": {"tenant": "acme", "role": "worker"}},
    {"client_id": "builder-8", "claims": {"tenant": "globex", "role": "worker"}},
    {"client_id": "ci", "claims": {"tenant": "acme", "role": "submitter"}},
    {"client_id": "boss", "claims": {"tenant": "acme", "role": "admin"}},
    {"client_id": "nobody", "claims": {"role": "worker"}},
    {
        "client_id": "offline",
        "grant_types": ["refresh_token"],
        "token_endpoint_auth_method": "none",
        "claims": {"tenant": "acme", "role": "worker"},
    },
)
"""The clients of the provider, which all have `SECRET`, except for the last; and the claims of their tokens."""


class Provider:
    """The provider's process. Its keys, tokens and clock stay as they are while it is closed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.issuer = ""

    async def _order(self, order: str, **options: Any) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"order": order, **options}).encode() + b"\n")
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        answer = json.loads(line or b'{"error": "it has exited"}')
        assert "error" not in answer, (order, answer)
        return answer

    async def open(self) -> None:
        """Listen, after the first time on the same port again."""
        self.issuer = f"http://127.0.0.1:{(await self._order('open'))['port']}"

    async def close(self) -> None:
        """Stop listening and close all connections: the provider is away."""
        await self._order("close")

    @property
    def keys_url(self) -> str:
        """The URL of its set of keys."""
        return f"{self.issuer}/jwks"

    @property
    def token_url(self) -> str:
        """The URL of its token endpoint."""
        return f"{self.issuer}/token"

    @property
    def options(self) -> tuple[str, ...]:
        """The options of a server that takes its tokens."""
        return (
            *("--jwt-keys", self.keys_url, "--jwt-issuer", self.issuer, "--jwt-audience", AUDIENCE),
            *("--jwt-tenant-claim", "tenant", "--jwt-role-claim", "role"),
            *("--jwt-role", "worker=worker", "--jwt-role", "submitter=submitter", "--jwt-role", "admin=admin"),
        )

    async def rotate(self, *, keep: bool = True) -> list[str]:
        """Sign with a new key from now on, and forget the old keys unless `keep`. Return the ids of all keys."""
        return (await self._order("rotate", keep=keep))["keys"]  # type: ignore[no-any-return]

    async def set_lifetime(self, seconds: int) -> None:
        """Let access tokens expire after so many seconds."""
        await self._order("set", name="lifetime", value=seconds)

    async def set_clock(self, offset: float) -> None:
        """Let its clock be so many seconds ahead of the machine's, or behind it if the number is negative."""
        await self._order("set", name="clock", value=offset)

    async def set_rotates(self, rotates: bool) -> None:
        """Give out a new refresh token with each access token, and take the old one no more."""
        await self._order("set", name="rotates", value=rotates)

    async def requests(self, path: str) -> int:
        """Return the number of requests that it got for a path, such as `/jwks`."""
        return (await self._order("requests")).get(path, 0)  # type: ignore[no-any-return]

    async def refresh_token(self, client: str = "offline", account: str = "ann") -> str:
        """Return a new refresh token of a client, as a login would have given it."""
        return (await self._order("refreshToken", clientId=client, accountId=account))["token"]  # type: ignore[no-any-return]

    async def token(self, client: str = "builder-7") -> str:
        """Return an access token that the client gets for its credentials, over HTTP."""
        form = {"grant_type": "client_credentials", "client_id": client, "client_secret": SECRET}
        async with aiohttp.ClientSession() as session, session.post(self.token_url, data=form) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer["access_token"]  # type: ignore[no-any-return]


@asynccontextmanager
async def running(
    modules: Path, clients: Sequence[Mapping[str, Any]] = CLIENTS, algorithm: str = "ES256"
) -> AsyncIterator[Provider]:
    """Start a provider with clients, whose tokens are signed with an algorithm, and stop it at the end of the block.

    `modules` is the folder in which npm has installed `oidc-provider`, with `provider.mjs` beside it.
    """
    given = {
        "audience": AUDIENCE,
        "algorithm": algorithm,
        "lifetime": 300,
        "clients": [dict(_CONFIDENTIAL) | {"client_secret": SECRET} | dict(client) for client in clients],
    }
    process = await asyncio.create_subprocess_exec(
        "node",
        "provider.mjs",
        json.dumps(given),
        cwd=modules,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        provider = Provider(process)
        await provider.open()
        yield provider
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
