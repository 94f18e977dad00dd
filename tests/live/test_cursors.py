"""Cursors with real servers: they go on after a restart and at every server of a storage, and show no numbers."""

import pytest

from ..throwaway import Throwaway
from .conftest import COMPOSER, WORKER, Serve, Server


async def _pages(first: Server, second: Server, path: str) -> list[str]:
    """Return the ids of a listing in pages of one, which two servers answer in turns."""
    ids: list[str] = []
    cursor = ""
    while True:
        first, second = second, first
        status, page = await first.request("GET", f"{COMPOSER}/{path}?limit=1{cursor}")
        assert status == 200, page
        ids += [item if isinstance(item, str) else item["id"] for item in page["items"]]
        if page.get("next") is None:
            return ids
        cursor = f"&cursor={page['next']}"


@pytest.mark.parametrize("shared", [True, False], ids=["postgresql", "fs"])
async def test_cursors_at_every_server(serve: Serve, newest_postgres: Throwaway, *, shared: bool) -> None:
    """A cursor of one server is one for every other, and for the same one after a kill."""
    if shared:
        url = newest_postgres.fresh()
        first, second = await serve(storage=url), await serve(storage=url)
    else:
        first = second = await serve()
    hub = await first.submit()
    own = [(await first.submit(dependencies=[hub["id"]]))["id"] for _ in range(3)]
    named = [(await first.request("POST", f"{WORKER}/workers", {"arch": "x86_64"}))[1]["id"] for _ in range(3)]
    assert await _pages(first, second, "jobs") == [*own[::-1], hub["id"]]
    assert await _pages(first, second, f"jobs/{hub['id']}/dependents") == own
    assert await _pages(first, second, "workers") == named[::-1]
    _, page = await first.request("GET", f"{COMPOSER}/jobs?limit=1")
    first.kill()
    await first.exited()
    await first.start()
    _, rest = await first.request("GET", f"{COMPOSER}/jobs?cursor={page['next']}")
    assert [job["id"] for job in rest["items"]] == [*own[-2::-1], hub["id"]]
