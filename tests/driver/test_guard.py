"""The guard around a driver: times, errors, and the number of answers."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from composerd.driver import Batch, guard
from composerd.driver.guard import Guard
from composerd.errors import DriverError, DriverTimeout, Unavailable
from composerd.ids import new_id
from composerd.models import Claim, JobFilter, JobState, Key, NewJob, News
from composerd_fs import MemoryDriver

BATCHES = ["enqueue", "touch", "attach", "finish", "release", "cancel", "delete"]
LISTS = ["get", "payload", "artifacts"]


class Odd(MemoryDriver):
    """A driver whose methods answer what a test says, or raise it. It gets the items as they are, whatever they are."""

    capabilities = msgspec.structs.replace(MemoryDriver.capabilities, hashes_tokens=True)

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in (*BATCHES, *LISTS, "claim", "ping", "load"):
            return found
        answer = super().__getattribute__("answer")

        async def call(*_arguments: Any) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call

    async def watch(self) -> AsyncIterator[News]:
        """Yield one piece of news, and raise what the test says."""
        yield News(due_in=1.0)
        raise self.answer

    async def dump(self) -> AsyncIterator[Any]:
        """Yield one job, and raise what the test says."""
        yield "a job"
        raise self.answer

    async def salvage(self) -> AsyncGenerator[Any, None]:
        """Yield one job, and raise what the test says."""
        yield "a job"
        raise self.answer


@pytest.mark.parametrize("method", BATCHES + LISTS)
@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_answers(method: str, count: int) -> None:
    """More or fewer answers than items are an error of the driver, which is named with both numbers."""
    answers: Any = [None] * count
    odd = Guard(Odd(Batch(answers) if method in BATCHES else answers))
    with pytest.raises(DriverError, match=f"^memory: {method}: {count} answers to 2 items$") as raised:
        await getattr(odd, method)([None, None])
    assert raised.value.details == {"driver": "memory"}


@pytest.mark.parametrize("method", BATCHES + LISTS)
@pytest.mark.parametrize("count", [0, 2])
async def test_the_right_number_of_answers(method: str, count: int) -> None:
    """As many answers as items are passed on as they are."""
    answers: Any = [None] * count
    answer = Batch(answers) if method in BATCHES else answers
    assert await getattr(Guard(Odd(answer)), method)([None] * count) is answer


@pytest.mark.parametrize(("count", "fine"), [(0, False), (1, True), (2, True), (3, False)])
async def test_a_claim_may_answer_a_prefix(count: int, fine: bool) -> None:
    """Of two claims one may be answered, but not none, and not three."""
    answer: Batch[Any] = Batch([None] * count)
    claiming = Guard(Odd(answer)).claim([Claim(new_id(), (Key("", "x", None),), 1.0)] * 2, 1)
    if fine:
        assert await claiming is answer
    else:
        with pytest.raises(DriverError, match=f"^memory: claim: {count} answers to 2 items$"):
            await claiming


async def test_no_claims_are_fine() -> None:
    """No claims are answered with nothing."""
    assert (await Guard(Odd(Batch(()))).claim([], 1)).items == ()


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (KeyError("bug"), DriverError, "memory: ping: 'bug'"),
        (TimeoutError(), DriverTimeout, "memory: ping: the storage took too long"),
        (ConnectionError("gone"), DriverError, "memory: ping: gone"),
    ],
)
async def test_an_exception_names_the_driver(error: Exception, expected: type[DriverError], message: str) -> None:
    """An exception of the driver becomes an error that names the driver and the method, with the exception as cause."""
    with pytest.raises(DriverError) as raised:
        await Guard(Odd(error)).ping()
    assert type(raised.value) is expected
    assert str(raised.value) == message
    assert raised.value.details == {"driver": "memory"}
    assert raised.value.__cause__ is error


async def test_an_error_of_ours_passes() -> None:
    """A `ComposerdError` is raised as it is, from streams too."""
    error = Unavailable("away")
    odd = Guard(Odd(error))
    with pytest.raises(Unavailable) as raised:
        await odd.ping()
    assert raised.value is error
    for stream in (odd.watch(), odd.dump(), odd.salvage()):
        await anext(stream)
        with pytest.raises(Unavailable) as raised:
            await anext(stream)
        assert raised.value is error


@pytest.mark.parametrize("method", ["watch", "dump", "salvage"])
async def test_a_stream_that_breaks_names_the_driver(method: str) -> None:
    """News, a dump and a salvage are passed on until the driver raises, and the error names the driver."""
    stream = getattr(Guard(Odd(KeyError("bug"))), method)()
    assert await anext(stream) is not None
    with pytest.raises(DriverError, match=f"^memory: {method}: 'bug'$") as raised:
        await anext(stream)
    assert raised.value.details == {"driver": "memory"}


async def test_calls_are_observed() -> None:
    """The observer is called after each call with the method, the time that it took, and whether it raised."""
    seen: list[tuple[str, float, bool]] = []

    def observe(method: str, seconds: float, raised: bool) -> None:
        seen.append((method, seconds, raised))

    await Guard(Odd(None), observe).ping()
    answers: list[Any] = [Unavailable("away"), KeyError("bug"), Batch([])]
    for answer in answers:
        odd = Guard(Odd(answer), observe)
        with pytest.raises(Unavailable):
            await odd.finish([None])  # type: ignore[list-item]
    assert [(method, raised) for method, _, raised in seen] == [("ping", False), *[("finish", True)] * 3]
    assert all(0 <= seconds < 60 for _, seconds, _ in seen)


@pytest.mark.parametrize(("method", "logged"), [("ping", True), ("load", False)])
async def test_a_slow_call_is_logged(
    method: str, logged: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that takes longer than a second is logged with its time, unless it may take long."""
    times = iter([10.0, 12.0])
    monkeypatch.setattr(guard, "time", SimpleNamespace(monotonic=lambda: next(times)))
    arguments: Sequence[Any] = ([],) if method == "load" else ()
    with caplog.at_level(logging.WARNING):
        await getattr(Guard(Odd(None)), method)(*arguments)
    assert [record.getMessage() for record in caplog.records] == ["storage memory: ping took 2.0 s"] * logged


async def test_slow_calls_that_overlap_are_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the storage is slow, concurrent calls of a method are one line in the log, and later ones another."""
    now = 10.0
    monkeypatch.setattr(guard, "time", SimpleNamespace(monotonic=lambda: now))
    answered = asyncio.Event()

    class Slow(MemoryDriver):
        async def ping(self) -> None:
            await answered.wait()

    guarded = Guard(Slow())
    with caplog.at_level(logging.WARNING):
        calls = [asyncio.create_task(guarded.ping()) for _ in range(3)]
        await asyncio.sleep(0)
        now = 12.0
        answered.set()
        await asyncio.gather(*calls)
        answered.clear()
        call = asyncio.create_task(guarded.ping())
        await asyncio.sleep(0)
        now = 15.0
        answered.set()
        await call
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["storage memory: ping took 2.0 s", "storage memory: ping took 3.0 s"]


@pytest.mark.parametrize(
    ("method", "arguments", "named"),
    [
        ("start", (), {"create": False}),
        ("start_reading", (), {"alone": True}),
        ("close", (), {}),
        ("migrate", (), {}),
        ("ping", (), {}),
        ("info", (), {}),
        ("check", (), {}),
        ("backup", (Path("directory"),), {}),
        ("shift_clock", (1.5,), {}),
        *[(method, (["an item"],), {}) for method in BATCHES + LISTS],
        ("claim", (["a claim"], 7), {}),
        ("advance", (8,), {}),
        ("purge", (9,), {}),
        ("list", (JobFilter(), 4, 5), {}),
        ("list", (JobFilter(states=(JobState.READY, JobState.RUNNING)), 4, 5), {}),
        ("seen", (["a worker"],), {}),
        ("sign_off", (["a worker"],), {}),
        ("workers", (6.0, ["an id"]), {}),
        ("payloads_up_to", (["a reference"], 100), {}),
        ("payload_part", ("a reference", 0, 100), {}),
        ("ahead", (UUID(int=1), 3), {}),
        ("load", (["a job"],), {}),
    ],
)
async def test_every_method_reaches_the_driver(
    method: str, arguments: tuple[Any, ...], named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the guard is one call of the driver with the same arguments, observed and in errors under its name."""
    driver = MemoryDriver()
    driver.capabilities = msgspec.structs.replace(driver.capabilities, hashes_tokens=True)  # it gets tokens as they are
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    answer: Any = Batch(["an answer"]) if method in (*BATCHES, "claim") else ["an answer"]
    observed: list[str] = []
    error: list[Exception] = []

    async def call(*given: Any, **given_by_name: Any) -> Any:
        calls.append((given, given_by_name))
        if error:
            raise error[0]
        return answer

    monkeypatch.setattr(driver, method, call)
    guarded = getattr(Guard(driver, lambda called, _seconds, _raised: observed.append(called)), method)
    returned = await guarded(*arguments, **named)
    assert returned is answer
    error.append(KeyError("bug"))
    with pytest.raises(DriverError, match=f"^memory: {method}: 'bug'$"):
        await guarded(*arguments, **named)
    assert calls == [(arguments, named)] * 2
    assert observed == [method] * 2


async def test_a_guarded_driver_does_what_the_driver_does() -> None:
    """A guard has the driver's capabilities and directory, creates a storage by default, and returns what is stored."""
    driver = MemoryDriver()
    driver.artifacts_directory = "/srv/artifacts"
    guarded = Guard(driver)
    assert guarded.capabilities is driver.capabilities
    assert guarded.artifacts_directory == "/srv/artifacts"
    await guarded.start()
    job = NewJob(id=new_id(), type="x")
    await guarded.enqueue([[job]])
    assert [one.job.id async for one in guarded.dump()] == [job.id]
    with pytest.raises(NotImplementedError, match=r"^a guard is made around a driver: .*open_driver$"):
        Guard.from_url("memory:")
