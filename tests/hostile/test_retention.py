"""Submitters that want the server to keep their jobs for longer than it allows."""

from collections.abc import Callable

import pytest

from .conftest import COMPOSER, Client, Serve


@pytest.mark.parametrize("retention", ["0s", "0", "3650d"])
async def test_a_job_that_wants_to_stay(serve: Serve, client: Callable[..., Client], retention: str) -> None:
    """A retention without an end, or a longer one than the server allows, is refused in a batch and alone."""
    greedy = client(await serve())
    status, answer = await greedy.request("POST", f"{COMPOSER}/jobs", {"type": "build", "retention": retention})
    assert (status, answer["id"], answer["details"]["field"], answer["details"]["limit"]) == (
        400,
        "19",
        "retention",
        "365d",
    )
    batch = {"jobs": [{"type": "build"}, {"type": "build", "retention": retention}]}
    status, answer = await greedy.request("POST", f"{COMPOSER}/jobs/batch", batch)
    assert (status, answer["id"], answer["details"]["field"]) == (400, "19", "jobs[1].retention")
    assert (await greedy.request("GET", f"{COMPOSER}/jobs"))[1]["items"] == []
