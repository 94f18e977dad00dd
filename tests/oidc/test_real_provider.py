"""A server takes the tokens of a real identity provider, whatever happens to the provider meanwhile."""

from .conftest import COMPOSER, Serve
from .provider import Provider


def bearer(token: str) -> dict[str, str]:
    """Return the header that a token is sent in."""
    return {"Authorization": f"Bearer {token}"}


async def test_claims_become_an_identity(serve: Serve, provider: Provider) -> None:
    """The claims of a token decide the name, the role and the tenant of its client."""
    server = await serve(*provider.options)
    status, known = await server.request("GET", f"{COMPOSER}/whoami", headers=bearer(await provider.token("ci")))
    assert status == 200
    assert (known["name"], known["role"], known["tenant"], known["source"]) == ("ci", "submitter", "acme", "jwt")
    print(server.log.decode())
