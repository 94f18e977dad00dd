"""Watches of jobs."""

import pytest

from composerd.gate import Gate
from composerd.ids import new_id
from composerd.queue.events import Events


async def test_a_watch_is_woken_by_its_job() -> None:
    """A watch is woken by news of its own job, also by news from before it waited, and once for each piece of news."""
    events = Events(Gate())
    job, other = new_id(), new_id()
    with events.watch(job) as watch, events.watch(job) as second, events.watch(other) as third:
        events.publish([new_id(), job])
        assert await watch.changed(60)
        assert await second.changed(60)
        assert not await third.changed(0)
        assert not await watch.changed(0)


async def test_every_watch_can_be_woken() -> None:
    """Lost news wakes every watch, of every job."""
    events = Events(Gate())
    with events.watch(new_id()) as first, events.watch(new_id()) as second:
        events.publish_all()
        assert await first.changed(60)
        assert await second.changed(60)


async def test_a_watch_that_ended_leaves_nothing() -> None:
    """When the last watch of a job ends, also with an exception, nothing is kept of the job."""
    events = Events(Gate())
    job = new_id()
    with events.watch(job):
        with pytest.raises(KeyError), events.watch(job):
            raise KeyError
        assert len(events._watches[job]) == 1
    assert not events._watches
    events.publish([job])
