"""Wrong attempts of one client are answered later and later, and are logged once a minute."""

import asyncio

import pytest

from composerd.http import wrong_attempts
from composerd.http.wrong_attempts import WrongAttempts
from composerd.tasks import stop


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the pauses take no time, and return their lengths."""
    lengths: list[float] = []

    async def sleep(seconds: float) -> None:
        lengths.append(seconds)

    monkeypatch.setattr(wrong_attempts.asyncio, "sleep", sleep)  # type: ignore[attr-defined]
    return lengths


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture
def wrong(clock: Clock) -> WrongAttempts:
    """Return wrong attempts that are timed by the clock."""
    return WrongAttempts(clock)


async def test_later_and_later(wrong: WrongAttempts, slept: list[float]) -> None:
    """The first attempts are answered at once, and each of the next ones later, up to a longest time."""
    for _ in range(12):
        assert await wrong.hold("a", "no")
    assert slept == [0.25, 0.5, 1, 2, 4, 4, 4, 4, 4]


async def test_other_clients(wrong: WrongAttempts, slept: list[float]) -> None:
    """Attempts of other clients are not counted."""
    for client in "aaaabbbb":
        await wrong.hold(client, "no")
    assert slept == [0.25, 0.25]


async def test_forgotten(wrong: WrongAttempts, slept: list[float], clock: Clock) -> None:
    """Attempts are forgotten one after the other, however many there were."""
    for _ in range(50):
        await wrong.hold("a", "no")
    slept.clear()
    clock.now += 5 * wrong_attempts.FORGET_EVERY
    await wrong.hold("a", "no")
    assert slept == [1]
    slept.clear()
    clock.now += 50
    for _ in range(3):
        await wrong.hold("a", "no")
    assert slept == []


async def test_bounds(wrong: WrongAttempts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few answers are held of each client, and a few in all; a client that has gone makes room."""
    monkeypatch.setattr(wrong_attempts, "MOST_HELD_OF_A_CLIENT", 2)
    monkeypatch.setattr(wrong_attempts, "MOST_HELD", 3)
    monkeypatch.setattr(wrong_attempts, "AT_ONCE", 0)

    async def held(client: str) -> "asyncio.Task[bool]":
        task = asyncio.create_task(wrong.hold(client, "no"))
        await asyncio.sleep(0)
        return task

    first, second, third = await held("a"), await held("a"), await held("b")
    assert not await wrong.hold("a", "no")
    assert not await wrong.hold("c", "no")
    await stop(first)
    fourth = await held("c")
    assert not fourth.done()
    await stop(second, third, fourth)
    assert wrong._held == 0


async def test_memory(wrong: WrongAttempts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that has tried nothing for longest is forgotten."""
    monkeypatch.setattr(wrong_attempts, "MOST_CLIENTS", 2)
    for client in "abac":
        await wrong.hold(client, "no")
    assert list(wrong._records) == ["a", "c"]


@pytest.mark.usefixtures("slept")
async def test_log(wrong: WrongAttempts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A client's first attempts are logged, the others of a minute are counted, and so are clients beyond a number."""
    monkeypatch.setattr(wrong_attempts, "MOST_LINES_OF_A_CLIENT", 1)
    monkeypatch.setattr(wrong_attempts, "MOST_LINES", 2)
    for client, problem in (
        ("a", "no"),
        ("b", "old"),
        ("a", "bad"),
        ("c", "no"),
        ("d", "no"),
        ("a", "worse"),
        ("c", "no"),
    ):
        await wrong.hold(client, problem)
    first = ["refused the credentials of a request from a: no", "refused the credentials of a request from b: old"]
    assert caplog.messages == first
    wrong.close()
    later = [
        "refused the credentials of 2 more requests from a within a minute; the latest: worse",
        "refused the credentials of 3 requests from 2 other clients within a minute",
    ]
    assert caplog.messages == first + later
    await wrong.hold("a", "no")
    wrong.close()
    assert caplog.messages == [*first, *later, "refused the credentials of a request from a: no"]


@pytest.mark.usefixtures("slept")
async def test_lines_of_one_client(wrong: WrongAttempts, caplog: pytest.LogCaptureFixture) -> None:
    """Each of the first attempts has a line with its own reason, also if its answer is not held."""
    for number in range(15):
        await wrong.hold("a", f"reason {number}")
        wrong.note("a", f"other reason {number}")
    wrong.close()
    said = "refused the credentials of"
    assert len(caplog.messages) == wrong_attempts.MOST_LINES_OF_A_CLIENT + 1
    assert caplog.messages[1] == f"{said} a request from a: other reason 0"
    assert caplog.messages[-1] == f"{said} 10 more requests from a within a minute; the latest: other reason 14"


async def test_minute(wrong: WrongAttempts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Attempts that were counted are logged when the minute is over, although nobody tries again."""
    monkeypatch.setattr(wrong_attempts, "WINDOW", 0.01)
    monkeypatch.setattr(wrong_attempts, "MOST_LINES_OF_A_CLIENT", 1)
    await wrong.hold("a", "no")
    await wrong.hold("a", "no")
    while len(caplog.messages) < 2:  # noqa: ASYNC110  # what changes is the log
        await asyncio.sleep(0.005)
    assert caplog.messages[1] == "refused the credentials of 1 more requests from a within a minute; the latest: no"
