"""The rule for repeating a call of the driver that failed."""

import logging
from collections.abc import Callable, Sequence

import pytest

from composerd.driver import Batch
from composerd.errors import (
    ComposerdError,
    DriverError,
    DriverTimeout,
    JobNotFound,
    OutcomeUnknown,
    StorageFull,
    Unavailable,
)
from composerd.models import News
from composerd.queue import repeating
from composerd.queue.repeating import Answers, call_until_answered

Fail = Callable[[int, Sequence[str]], ComposerdError | None]


class Method:
    """A writing method that answers each item in capitals, and fails when `fail` returns an error for the call."""

    def __init__(self, fail: Fail = lambda _call, _items: None) -> None:
        self.calls: list[Sequence[str]] = []
        self._fail = fail

    async def __call__(self, items: Sequence[str]) -> Batch[str | ComposerdError]:
        self.calls.append(items)
        error = self._fail(len(self.calls), items)
        if error is not None:
            raise error
        return Batch([item.upper() for item in items], News(due_in=float(len(self.calls))))


def always(error: ComposerdError) -> Fail:
    """Fail every call."""
    return lambda _call, _items: error


def once(error: ComposerdError) -> Fail:
    """Fail the first call."""
    return lambda call, _items: error if call == 1 else None


async def test_a_call_that_succeeds_is_made_once() -> None:
    """A call that succeeds is made once, and its answers and news are returned."""
    method = Method()
    assert await call_until_answered(method, ["a", "b"]) == Answers(["A", "B"], (News(due_in=1.0),))
    assert method.calls == [["a", "b"]]


@pytest.mark.parametrize("error", [Unavailable("away"), OutcomeUnknown("lost"), DriverError("bug"), JobNotFound()])
async def test_a_failed_call_is_repeated(error: ComposerdError) -> None:
    """A call that fails once is made again with all its items; the news is that of the repetition."""
    method = Method(once(error))
    assert await call_until_answered(method, ["a", "b"]) == Answers(["A", "B"], (News(due_in=2.0),))
    assert method.calls == [["a", "b"]] * 2


async def test_a_full_storage_is_not_called_again() -> None:
    """Each item is answered with the error of a storage that is full, without a repetition."""
    error = StorageFull("full")
    method = Method(always(error))
    assert await call_until_answered(method, ["a", "b", "c"]) == Answers([error] * 3)
    assert len(method.calls) == 1


@pytest.mark.parametrize("error", [Unavailable("away"), StorageFull("full")])
async def test_a_storage_that_refuses_twice_is_not_called_for_each_item(error: ComposerdError) -> None:
    """After a second call that says that the storage is unavailable or full, each item is answered with that error."""
    method = Method(lambda call, _items: Unavailable("away") if call == 1 else error)
    assert await call_until_answered(method, ["a", "b"]) == Answers([error] * 2)
    assert len(method.calls) == 2


@pytest.mark.parametrize("changes", [True, False])
async def test_a_timeout_is_not_repeated(*, changes: bool) -> None:
    """A timeout is an outage and no item's fault: it is not repeated, and the outcome of a change is unknown."""
    error = DriverTimeout("slow")
    method = Method(always(error))
    answers = await call_until_answered(method, ["a"] * 1000, changes=changes)
    assert len(method.calls) == 1
    assert answers.hangs
    assert {type(one) for one in answers.items} == {OutcomeUnknown if changes else DriverTimeout}
    assert len(answers.items) == 1000


@pytest.mark.parametrize("error", [Unavailable("lost"), OutcomeUnknown("lost")])
async def test_an_outage_that_took_long_is_not_repeated(error: ComposerdError, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that takes long to fail is not called again, so that nobody waits twice."""
    monkeypatch.setattr(repeating, "SLOW", -1.0)
    method = Method(always(error))
    assert await call_until_answered(method, ["a"]) == Answers([error], (), hangs=True)
    assert len(method.calls) == 1


@pytest.mark.parametrize("first", [OutcomeUnknown("lost"), DriverError("bug")])
@pytest.mark.parametrize("second", [Unavailable("away"), StorageFull("full")])
async def test_a_repetition_that_is_refused_leaves_the_outcome_unknown(
    first: ComposerdError, second: ComposerdError
) -> None:
    """If the first of two calls may have changed something, the outcome is unknown, whatever the second one says."""
    method = Method(lambda call, _items: first if call == 1 else second)
    (answer,) = (await call_until_answered(method, ["a"])).items
    assert isinstance(answer, OutcomeUnknown)
    assert answer.__cause__ is second
    method = Method(lambda call, _items: first if call == 1 else second)
    assert (await call_until_answered(method, ["a"], changes=False)).items == [second]


async def test_what_has_to_be_known_of_a_heartbeat() -> None:
    """Whoever need not know whether something was changed is told that the storage is not available."""
    (answer,) = (await call_until_answered(Method(always(OutcomeUnknown("lost"))), ["a"], changes=False)).items
    assert type(answer) is Unavailable


async def test_one_item_that_fails_twice() -> None:
    """A single item has no other to be told from: its outcome is unknown, with the error of its second call."""
    errors = [DriverError("first"), DriverError("second")]
    method = Method(lambda call, _items: errors[call - 1])
    (answer,) = (await call_until_answered(method, ["a"])).items
    assert isinstance(answer, OutcomeUnknown)
    assert answer.__cause__ is errors[1]


async def test_items_are_tried_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    """Only the item that fails alone is answered with its error; news of the others is kept, and the log says so."""
    bug = DriverError("bug")
    method = Method(lambda _call, items: bug if "b" in items else None)
    with caplog.at_level(logging.WARNING):
        answers, news, hangs = await call_until_answered(method, ["a", "b", "c"], changes=False)
    assert answers == ["A", bug, "C"]
    assert news == [News(due_in=3.0), News(due_in=5.0)]
    assert not hangs
    assert method.calls == [["a", "b", "c"], ["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert caplog.messages == ["a batch of 3 writes failed twice; trying them one by one"]


@pytest.mark.parametrize("refusal", [Unavailable("away"), StorageFull("full"), DriverTimeout("slow")])
async def test_one_by_one_ends_when_the_storage_refuses(refusal: ComposerdError) -> None:
    """If the storage refuses while items are tried one by one, the remaining items get that error without a call."""
    bug = DriverError("bug")
    method = Method(lambda call, _items: bug if call <= 2 else refusal if call == 4 else None)
    answers, news, _ = await call_until_answered(method, ["a", "b", "c", "d"], changes=False)
    assert answers == ["A", refusal, refusal, refusal]
    assert news == [News(due_in=3.0)]
    assert len(method.calls) == 4


async def test_one_by_one_goes_on_after_a_bug() -> None:
    """A bug concerns the item at hand: the next one is still tried."""
    bug = DriverError("bug")
    method = Method(lambda call, _items: bug if call <= 4 else None)
    answers = await call_until_answered(method, ["a", "b", "c"], changes=False)
    assert answers.items == [bug, bug, "C"]


async def test_one_by_one_takes_bounded_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If the items that are tried one by one take too long to fail, the rest are not tried, and the log says so."""
    monkeypatch.setattr(repeating, "ONE_BY_ONE_FOR", 0.0)
    method = Method(always(DriverError("bug")))
    with caplog.at_level(logging.WARNING):
        answers = await call_until_answered(method, ["a"] * 1000)
    assert len(method.calls) == 3
    assert [type(one) for one in answers.items] == [OutcomeUnknown] * 1000
    assert caplog.messages[1:] == ["trying writes one by one took too long; 999 were not tried"]
