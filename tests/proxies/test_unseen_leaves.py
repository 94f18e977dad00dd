"""Requests for jobs whose clients have gone, behind real proxies that by default do not tell the server."""

import pytest

from ..live.conftest import Serve
from ..live.test_unseen_leaves import hand_over_past_the_dead
from .conftest import Run
from .kinds import UNTOUCHED


@pytest.mark.parametrize("name", ["haproxy", "apache"])
async def test_jobs_go_to_those_that_are_surely_there(name: str, serve: Serve, run: Run) -> None:
    """With 3 dead and 6 live requests behind a proxy, 12 jobs one after the other all go to the live ones."""
    server = await serve("--handover-timeout", "60s", "--proxied-wait", "10m")
    await hand_over_past_the_dead(server, (await run(UNTOUCHED[name], server)).address)
