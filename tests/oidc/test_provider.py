"""The OpenID provider that the other tests here use does what they rely on."""

import time

import aiohttp
import jwt
import pytest

from .provider import AUDIENCE, Provider


async def test_a_token_has_the_claims_of_its_client(provider: Provider) -> None:
    """A client gets a JWT for this server, signed with a key of the set, with the claims that the tests rely on."""
    token = await provider.token("builder-7")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["iss"] == provider.issuer
    assert claims["aud"] == AUDIENCE
    assert claims["sub"] == claims["client_id"] == "builder-7"
    assert (claims["tenant"], claims["role"]) == ("acme", "worker")
    assert claims["exp"] == pytest.approx(time.time() + 300, abs=5)
    async with aiohttp.ClientSession() as session, session.get(provider.keys_url) as response:
        kids = [key["kid"] for key in (await response.json())["keys"]]
    assert kids == [jwt.get_unverified_header(token)["kid"]]


async def test_a_refresh_token_is_worth_access_tokens(provider: Provider) -> None:
    """A form-encoded request with a refresh token alone gets an access token of the account, again and again."""
    form = {"grant_type": "refresh_token", "client_id": "offline", "refresh_token": await provider.refresh_token()}
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(provider.token_url, data=form) as response:
                answer = await response.json()
            assert answer["token_type"] == "Bearer"
            assert jwt.decode(answer["access_token"], options={"verify_signature": False})["sub"] == "ann"


async def test_keys_lifetime_and_clock_change_while_it_runs(provider: Provider) -> None:
    """New keys, a shorter lifetime and another clock hold for the next token, also after the provider was away."""
    assert await provider.rotate() == ["key-2", "key-1"]
    assert await provider.rotate(keep=False) == ["key-3"]
    await provider.set_lifetime(7)
    await provider.set_clock(-3600)
    await provider.close()
    with pytest.raises(aiohttp.ClientConnectionError):
        await provider.token()
    await provider.open()
    token = await provider.token()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert jwt.get_unverified_header(token)["kid"] == "key-3"
    assert claims["exp"] - claims["iat"] == 7
    assert claims["iat"] == pytest.approx(time.time() - 3600, abs=5)
