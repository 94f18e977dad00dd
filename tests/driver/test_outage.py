"""The notes about a storage's outages: when one begins and ends, and what the log says."""

import logging
import re
from collections.abc import Iterator

import pytest

from composerd.driver.outage import Outage
from composerd.errors import DriverError, DriverTimeout, StorageFull, Unavailable, WritesStopped

BEGINS = "the storage does not answer: requests that need it fail until it does; "


class Noted:
    """An outage whose clock a test sets, with what it told."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 1000.0
        self.ends = 0
        self.outage = Outage()
        self.outage.on_end = self.ended
        self.outage.succeeded("start")
        self._caplog = caplog

    def ended(self) -> None:
        """Count the ends of outages."""
        self.ends += 1

    def fails(self, method: str, error: Unavailable | StorageFull | None = None) -> None:
        """Let a call fail."""
        self.outage.failed(method, error or Unavailable("away"))

    @property
    def lines(self) -> list[str]:
        """The messages that were logged."""
        return self._caplog.messages


@pytest.fixture
def noted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Noted]:
    """Return the notes about a storage that has answered."""
    noted = Noted(caplog)
    monkeypatch.setattr("composerd.driver.outage.time.monotonic", lambda: noted.now)
    with caplog.at_level(logging.WARNING):
        yield noted
    monkeypatch.undo()


def test_an_outage_has_two_lines(noted: Noted) -> None:
    """However many calls fail, an outage is logged once when it begins and once when all of them succeed again."""
    for method in ("enqueue", "get", "enqueue", "touch"):
        noted.fails(method)
    noted.now += 41.0
    noted.fails("get", DriverTimeout("slow"))
    for method in ("touch", "get", "enqueue"):
        assert noted.outage.attentive
        noted.outage.succeeded(method)
    assert not noted.outage.attentive
    assert not noted.outage.lasts
    assert noted.lines == [
        f"{BEGINS}enqueue failed: away",
        "the storage answers again after 41.0 s; failed calls: 5; every running attempt gets a full lease",
    ]
    assert noted.ends == 1


def test_what_still_works_ends_no_outage(noted: Noted) -> None:
    """While writes fail, reads that succeed do not end the outage; a write that succeeds does after a moment."""
    noted.fails("enqueue")
    noted.fails("cancel")
    for _ in range(5):
        noted.now += 1.0
        noted.fails("enqueue")
        noted.outage.succeeded("get")
    assert noted.outage.lasts
    noted.outage.succeeded("enqueue")
    assert noted.outage.lasts, "a cancel may still fail"
    noted.now += 2.0
    noted.outage.succeeded("enqueue")
    assert not noted.outage.lasts
    noted.fails("get")
    noted.now += 11.0
    noted.outage.succeeded("advance")
    assert not noted.outage.lasts, "nothing has failed for a while"
    assert len([line for line in noted.lines if re.match("the storage answers again", line)]) == 2


@pytest.mark.parametrize("error", [StorageFull("full"), DriverError("bug")])
def test_what_is_no_outage(noted: Noted, error: Unavailable | StorageFull) -> None:
    """A full storage and a bug of a driver are no outage, and are logged elsewhere."""
    noted.fails("enqueue", error)
    assert noted.lines == []
    assert not error.logged


def test_what_the_driver_has_logged(noted: Noted) -> None:
    """A driver that accepts no writes until it is repaired has said so in the log, and begins no outage."""
    error = WritesStopped("repair the disk")
    error.logged = True
    noted.fails("enqueue", error)
    assert noted.lines == []
    assert not noted.outage.lasts


def test_leases_that_could_not_be_renewed(noted: Noted) -> None:
    """A failed heartbeat or upload is told once; other failures are not."""
    noted.fails("get")
    assert not noted.outage.unrenewed()
    noted.fails("touch", DriverError("bug"))
    assert noted.outage.unrenewed()
    assert not noted.outage.unrenewed()
    noted.fails("attach")
    assert noted.outage.unrenewed()


def test_a_storage_that_has_not_started(caplog: pytest.LogCaptureFixture) -> None:
    """Failures before the storage has ever answered are reported by whoever starts it."""
    outage = Outage()
    outage.on_end = lambda: None
    error = Unavailable("not open")
    with caplog.at_level(logging.WARNING):
        outage.failed("seen", error)
    assert caplog.messages == []
    assert error.logged
