"""Tests of what a failed call has changed: nothing, or nobody knows."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from composerd.errors import ComposerdError, OutcomeUnknown, StorageFull, Unavailable
from composerd.models import Artifact, Attachment, AttemptState, JobState, Key, Outcome
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import LEASE, Instance

FILE = Artifact("log.txt", 3, "ab" * 32, "location")

MOMENTS = (0, 1, 3, 10)
"""Numbers of turns of the event loop after which a storage is closed while changes are made."""


class Changes:
    """One change of each kind, on jobs of their own."""

    def __init__(self, instance: Instance, type: str) -> None:
        self.instance = instance
        self.type = type
        self.new = instance.new(type="new")

    async def prepare(self) -> None:
        """Store the jobs that are to be changed."""
        instance = self.instance
        self.ended = await instance.add(type=self.type)
        await instance.cancel(self.ended)
        self.waiting = await instance.add(type=self.type, not_before=3600.0)
        self.jobs = [await instance.add(type=self.type) for _ in range(3)]
        self.tokens = [await instance.take(job_id, keys=(Key("", self.type, None),)) for job_id in self.jobs]

    def calls(self) -> list[Callable[[], Awaitable[object]]]:
        """Return the calls that make the changes."""
        driver = self.instance.driver
        return [
            lambda: driver.enqueue([[self.new]]),
            lambda: driver.finish([Outcome(self.tokens[0], b"1", failed=False)]),
            lambda: driver.release([self.tokens[1]]),
            lambda: driver.attach([Attachment(self.tokens[2], FILE)]),
            lambda: driver.cancel([self.waiting]),
            lambda: driver.delete([self.ended]),
        ]

    async def made(self) -> list[bool]:
        """Return for each call whether its change was made."""
        instance = self.instance
        new, ended = await instance.driver.get([self.new.id, self.ended])
        return [
            new is not None,
            await instance.touch(self.tokens[0]) is AttemptState.FINISHED,
            await instance.touch(self.tokens[1]) is AttemptState.SUPERSEDED,
            await instance.artifacts(self.jobs[2]) == (FILE,),
            await instance.state(self.waiting) is JobState.CANCELED,
            ended is None,
        ]


class Outages:
    """Tests of the changes that calls leave behind when they fail."""

    @clause("G9", needs="durable")
    async def test_a_storage_that_is_not_open(self, instance: Instance) -> None:
        """On a storage that is closed every change raises `Unavailable`, and nothing is changed."""
        changes = Changes(instance, "a")
        await changes.prepare()
        await instance.driver.close()
        for call in changes.calls():
            with pytest.raises(Unavailable) as raised:
                await call()
            assert not isinstance(raised.value, OutcomeUnknown)
        await instance.reopen()
        assert await changes.made() == [False] * 6

    @clause("G9", needs="durable")
    async def test_closing_while_changes_are_made(self, instance: Instance) -> None:
        """A change that is answered while the storage is closed was made; one that raises `Unavailable` was not."""
        for turns in MOMENTS:
            changes = Changes(instance, f"after-{turns}")
            await changes.prepare()
            calls = [asyncio.ensure_future(call()) for call in changes.calls()]
            for _ in range(turns):
                await asyncio.sleep(0)
            await instance.driver.close()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            await instance.reopen()
            for answer, made in zip(answers, await changes.made(), strict=True):
                if not isinstance(answer, BaseException):
                    assert made
                elif not _in_doubt(answer):
                    assert not made

    @clause("G10")
    async def test_an_outage(self, instance: Instance) -> None:
        """Nothing ends until a full lease after an outage, and what is repeated after it is answered as before it."""
        changes = Changes(instance, "a")
        await changes.prepare()
        new = await instance.add(type="b")
        key, token = Key("", "b", None), instance.id()
        assert await instance.claim(key, token=token, handover=20.0) is not None
        for call in changes.calls():
            await call()
        await instance.driver.advance(10)
        await instance.freeze(LEASE + 100.0)
        for call in changes.calls():
            await call()
        assert await changes.made() == [True] * 6
        again = await instance.claim(key, token=token, handover=20.0)
        assert again is not None
        assert again.job_id == new
        assert await instance.pass_time(LEASE - 50.0) == []
        assert set(await instance.pass_time(100.0)) == {new, changes.jobs[2]}


def _in_doubt(error: BaseException) -> bool:
    """Return True if an error leaves open whether something was changed."""
    assert isinstance(error, ComposerdError)
    return isinstance(error, OutcomeUnknown) or not isinstance(error, (Unavailable, StorageFull))
