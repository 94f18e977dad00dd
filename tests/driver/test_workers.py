"""The workers that a driver keeps in memory: bounded in bytes, with a share for each client."""

import gc
import tracemalloc
from uuid import UUID

import pytest

from composerd.driver import workers as module
from composerd.driver.clock import Moment
from composerd.driver.workers import MAX_BYTES, Workers
from composerd.ids import new_id
from composerd.models import Worker, WorkerCursor


def invented(client: str, types: int = 64, length: int = 128) -> Worker:
    """Return a worker with a new id and types that no other has."""
    unique = str(new_id())
    return Worker(new_id(), "x86_64", tuple(f"{n:03}{unique}".ljust(length, "x") for n in range(types)), client=client)


def moment(seconds: float) -> Moment:
    """Return a moment, in seconds."""
    return Moment(int(seconds * 1e6), int(seconds * 1e6))


def known(workers: Workers, *ids: UUID) -> list[UUID]:
    """Return which workers are known."""
    return [one.id for one in workers.since(0, ids)]


def test_invented_workers_push_out_their_own_client_s() -> None:
    """A client that invents workers forgets its own oldest ones; those of others and its latest stay."""
    workers = Workers()
    quiet = [invented("quiet") for _ in range(3)]
    workers.seen(quiet, moment(1))
    loud = [invented("loud") for _ in range(3000)]
    workers.seen(loud, moment(2))
    assert set(known(workers, *(one.id for one in quiet))) == {one.id for one in quiet}
    assert known(workers, loud[-1].id, loud[0].id) == [loud[-1].id]
    late = invented("late")
    workers.seen([late], moment(3))
    assert known(workers, late.id) == [late.id]


@pytest.mark.parametrize("types", [0, 3, 64])
def test_the_bound_is_in_bytes_of_memory(monkeypatch: pytest.MonkeyPatch, types: int) -> None:
    """However small or large the workers of many clients are, they take less memory than the bound says."""
    limit = 4 * 1024 * 1024
    monkeypatch.setattr(module, "MAX_BYTES", limit)
    tracemalloc.start()
    try:
        workers = Workers()
        before = tracemalloc.get_traced_memory()[0]
        for client in range(12):
            for _ in range(4000 // (types + 1)):
                workers.seen([invented(str(client), types)], moment(1))
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert limit / 4 < used < limit * 1.1


@pytest.mark.parametrize("length", [1, 120])
def test_the_bound_holds_for_invented_identities(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Workers that each have a client and a channel of their own, with long names, take less than the bound too."""
    limit = 4 * 1024 * 1024
    monkeypatch.setattr(module, "MAX_BYTES", limit)
    workers = Workers()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(4000):
            name = f"{n}".ljust(length, "\U0001f525")
            workers.seen([Worker(new_id(), "x86_64", ("build",), channel=f"org-{name}", client=name * 2)], moment(1))
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert limit / 4 < used < limit * 1.1


def test_equal_types_are_stored_once() -> None:
    """The types of a client's workers are one object if they are equal, and are forgotten with the last worker."""
    workers = Workers()
    types = invented("a").types
    ids = [new_id() for _ in range(1000)]
    for one in ids:
        workers.seen([Worker(one, "x86_64", tuple("".join(each) for each in types), client="a")], moment(1))
    assert len({id(one.types) for one in workers.since(0)}) == 1
    for one in ids:
        workers.seen([Worker(one, "x86_64", ("other",), client="a")], moment(2))
    assert {one.types for one in workers.since(0)} == {("other",)}


def test_the_bound_holds_for_problems_and_for_workers_that_signed_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long problems, and invented workers that sign off, take less memory than the bound, and leave others theirs."""
    limit = 4 * 1024 * 1024
    monkeypatch.setattr(module, "MAX_BYTES", limit)
    workers = Workers()
    quiet = invented("quiet")
    workers.seen([quiet], moment(1))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(10_000):
            workers.sign_off([Worker(new_id(), "", client="loud")], moment(2))
            paused = Worker(new_id(), "x86_64", client="loud", problem=f"{n}".ljust(500, "\U0001f525"))
            workers.seen([paused], moment(2))
        last = new_id()
        workers.seen([Worker(last, "x86_64", client="loud")], moment(3))
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert limit / 4 < used < limit * 1.1
    assert known(workers, quiet.id, last) == [last, quiet.id]


def test_a_share_that_shrank_keeps_its_workers() -> None:
    """A client whose share shrank because another came keeps the workers that it has, and may see them again."""
    workers = Workers()
    first = [invented("first") for _ in range(3000)]
    workers.seen(first, moment(1))
    kept = len(workers.since(0))
    workers.seen([invented("second") for _ in range(3000)], moment(2))
    workers.seen(first[-kept:], moment(3))
    assert len(known(workers, *(one.id for one in first))) == kept


def test_a_page_is_bounded_in_bytes() -> None:
    """A page of large workers is short, and has a next one; workers that signed off do not count."""
    workers = Workers()
    workers.seen([invented("a") for _ in range(500)], moment(1))
    gone = [new_id() for _ in range(100)]
    workers.sign_off([Worker(one, "", client="b") for one in gone], moment(1))
    assert known(workers, *gone) == []
    page = workers.page(0, None, 1000)
    assert 0 < len(page.workers) < 200
    sizes = len(page.workers)
    while page.next is not None:
        page = workers.page(0, page.next, 1000)
        sizes += len(page.workers)
    assert sizes == 500
    assert workers.page(0, WorkerCursor(1, new_id()), 10).workers == ()


def test_the_bound() -> None:
    """The bound is the one that the page of limits states."""
    assert MAX_BYTES == 64 * 1024 * 1024
