"""Requests in progress are shared: heavy ones take turns, and metrics are computed at most once a second."""

import asyncio
import time
from collections.abc import Callable

from .conftest import COMPOSER, Attacker, Client, Serve, head

Attackers = Callable[..., Attacker]
Clients = Callable[..., Client]

LISTINGS = 200


async def test_many_listings_at_once(serve: Serve, attacker: Attackers, client: Clients) -> None:
    """Of very many listings at once some are refused; another client's listing takes its turn before theirs."""
    server = await serve()
    quiet, loud = client(server), attacker(server)
    for _ in range(3):
        assert (await quiet.request("POST", f"{COMPOSER}/jobs/batch", {"jobs": [{"type": "build"}] * 1000}))[0] == 201
    listing = head("GET", f"{COMPOSER}/jobs?limit=1000", "Connection: close")
    connections = [await loud.connect() for _ in range(LISTINGS)]
    for _, writer in connections:
        writer.write(listing)
    answers = [asyncio.create_task(reader.read()) for reader, _ in connections]
    await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    assert (await quiet.request("GET", f"{COMPOSER}/jobs?limit=1000"))[0] == 200
    done = [task.result() for task in answers if task.done()]
    refused = [answer for answer in done if answer.startswith(b"HTTP/1.1 503")]
    assert refused, "more than the share of one client waited for a turn"
    assert len(done) - len(refused) < LISTINGS / 4, "the other client had to wait for all listings"
    for task in answers:
        task.cancel()


async def test_metrics_are_computed_once_a_second(serve: Serve, attacker: Attackers, client: Clients) -> None:
    """However many ask for the metrics, the storage is asked for them at most once a second, and for a ping too."""
    server = await serve()
    quiet, loud = client(server), attacker(server)
    began = time.monotonic()
    for page in ("/metrics", "/readyz") * 50:
        reader, _ = await loud.connect(head("GET", page, "Connection: close"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")

    async def calls(method: str) -> int:
        _, text = await quiet.request("GET", "/metrics")
        for line in text.decode().splitlines():
            if line.startswith(f'composerd_storage_seconds_count{{method="{method}"}}'):
                return int(float(line.split()[1]))
        return 0

    for method in ("info", "ping"):
        assert await calls(method) <= time.monotonic() - began + 2
