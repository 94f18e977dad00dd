"""Tests of the workers that a storage remembers: who they are, whose they are, and their pages."""

from uuid import UUID

import msgspec

from composerd.models import AttemptState, Claim, Worker, WorkerCursor
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import BUILD, PLENTY, Instance


class RememberedWorkers:
    """The workers that were seen lately."""

    @clause("W1")
    async def test_workers(self, instance: Instance) -> None:
        """`workers` returns the worker seen last first, each once, as it described itself last."""
        one, two = instance.id(), instance.id()
        await instance.driver.seen([Worker(one, "x86_64"), Worker(two, "aarch64", ("build",), "org")])
        await instance.driver.seen([Worker(one, "x86_64", ("build",))])
        workers = await instance.driver.workers(60)
        assert [(worker.id, worker.types) for worker in workers] == [(one, ("build",)), (two, ("build",))]
        assert all(worker.seen_at is not None for worker in workers)

    @clause("W1", "W2")
    async def test_a_worker_without_description(self, instance: Instance) -> None:
        """A worker seen without a description keeps its last one; one not seen for too long is left out."""
        one, two = instance.id(), instance.id()
        await instance.driver.seen([Worker(one, "x86_64", ("build",)), Worker(two, "aarch64")])
        await instance.pass_time(1000.0)
        await instance.driver.seen([Worker(one, "")])
        (shown,) = await instance.driver.workers(990)
        assert (shown.id, shown.arch, shown.types) == (one, "x86_64", ("build",))
        assert [worker.id for worker in await instance.driver.workers(1010)] == [one, two]
        assert [worker.id for worker in await instance.driver.workers(1010, [two, instance.id()])] == [two]
        assert await instance.driver.workers(990, [two]) == []

    @clause("W1")
    async def test_chosen_workers(self, instance: Instance) -> None:
        """Workers that are named by id are returned in the order in which they were seen, the latest first."""
        ids = [instance.id() for _ in range(3)]
        for worker_id in ids:
            await instance.driver.seen([Worker(worker_id, "x86_64")])
        for wanted in (ids, ids[::-1]):
            assert [worker.id for worker in await instance.driver.workers(600, wanted)] == ids[::-1]

    @clause("W3")
    async def test_the_jobs_of_a_worker(self, instance: Instance) -> None:
        """`workers` returns each worker with the jobs that it is running."""
        worker = instance.id()
        await instance.driver.seen([Worker(worker, "x86_64")])
        first, second = await instance.add(), await instance.add()
        tokens = [instance.id(), instance.id()]
        await instance.driver.claim([Claim(token, (BUILD,), 600.0, worker_id=worker) for token in tokens], PLENTY)
        assert [set(one.jobs) for one in await instance.driver.workers(60)] == [{first, second}]
        await instance.finish(tokens[0])
        await instance.release(tokens[1])
        assert [one.jobs for one in await instance.driver.workers(60)] == [()]

    @clause("W4")
    async def test_pages_of_workers(self, instance: Instance) -> None:
        """`worker_page` returns each worker once, with its jobs, the latest first, in pages of at most `limit`."""
        ids = [instance.id() for _ in range(7)]
        await instance.driver.seen([Worker(one, "x86_64", ("build",)) for one in ids[:4]])
        for one in ids[4:]:
            await instance.driver.seen([Worker(one, "x86_64")])
        job_id = await instance.add()
        await instance.driver.claim([Claim(instance.id(), (BUILD,), 600.0, worker_id=ids[0])], PLENTY)
        found: list[Worker] = []
        after: WorkerCursor | None = None
        while True:
            page = await instance.driver.worker_page(60, after, 3)
            assert len(page.workers) <= 3
            found += page.workers
            after = page.next
            if after is None:
                break
            assert 0 < after.seen < 2**63
        assert [one.id for one in found] == [one.id for one in await instance.driver.workers(60)]
        assert sorted(one.id for one in found) == sorted(ids)
        assert {one.id: one.jobs for one in found}[ids[0]] == (job_id,)
        assert [one.id for one in found[:3]] == ids[:3:-1]

    @clause("W4")
    async def test_pages_of_late_workers(self, instance: Instance) -> None:
        """`worker_page` leaves out workers that were not seen for too long, and accepts a cursor that it never gave."""
        await instance.driver.seen([Worker(instance.id(), "x86_64")])
        await instance.pass_time(1000.0)
        late = instance.id()
        await instance.driver.seen([Worker(late, "x86_64")])
        page = await instance.driver.worker_page(990, None, 10)
        assert ([one.id for one in page.workers], page.next) == ([late], None)
        for seen in (1, 2**63 - 1):
            assert len((await instance.driver.worker_page(990, WorkerCursor(seen, late), 10)).workers) <= 1

    @clause("W10")
    async def test_pages_of_the_workers_of_a_channel(self, instance: Instance) -> None:
        """`worker_page` leaves out the workers of other channels, on every page, also after one has moved."""
        own, other, silent, moved, ended = (instance.id() for _ in range(5))
        await instance.driver.seen(
            [
                Worker(own, "x86_64", ("build",), "a"),
                Worker(other, "x86_64", ("build",), "b"),
                Worker(silent, ""),
                Worker(moved, "x86_64", channel="b"),
                Worker(ended, "x86_64", channel="a"),
            ]
        )
        await instance.driver.seen([Worker(moved, "x86_64", channel="a")])
        await instance.driver.seen([Worker(own, "", channel="b")])  # a sign of life
        await instance.driver.sign_off([Worker(ended, "")])
        for channel, expected in (("a", [own, moved, silent]), ("b", [silent, other]), ("c", [silent])):
            for limit in (1, 2, 10):
                found: list[UUID] = []
                after: WorkerCursor | None = None
                while True:
                    page = await instance.driver.worker_page(60, after, limit, channel)
                    assert len(page.workers) <= limit
                    found += [one.id for one in page.workers]
                    after = page.next
                    if after is None:
                        break
                assert found == expected
        assert len((await instance.driver.worker_page(60, None, 10)).workers) == 4

    @clause("W5")
    async def test_the_client_of_a_worker(self, instance: Instance) -> None:
        """Only the client that named a worker first describes it, until the worker was not seen for an hour."""
        worker = instance.id()

        async def known(within: float = 60) -> list[tuple[str, tuple[str, ...]]]:
            return [(one.arch, one.types) for one in await instance.driver.workers(within, [worker])]

        await instance.driver.seen([Worker(worker, "")])
        await instance.driver.seen([Worker(worker, "x86_64", ("build",), client="a")])
        await instance.driver.seen([Worker(worker, "aarch64", ("other",), client="b"), Worker(worker, "", client="b")])
        assert await known() == [("x86_64", ("build",))]
        await instance.driver.seen([Worker(worker, "x86_64", ("more",), client="a")])
        assert await known() == [("x86_64", ("more",))]
        await instance.pass_time(1000.0)
        await instance.driver.seen([Worker(worker, "aarch64", ("other",), client="b"), Worker(worker, "", client="b")])
        assert await known() == []
        await instance.driver.seen([Worker(worker, "")])
        assert await known() == [("x86_64", ("more",))]
        await instance.pass_time(3700.0)
        await instance.driver.seen([Worker(worker, "aarch64", ("other",), client="b")])
        await instance.driver.seen([Worker(worker, "x86_64", ("build",), client="a")])
        assert await known() == [("aarch64", ("other",))]

    @clause("W6")
    async def test_workers_that_a_client_invents(self, instance: Instance) -> None:
        """A client that names many workers makes the driver forget no worker of another client."""
        worker = instance.id()
        await instance.driver.seen([Worker(worker, "x86_64", ("build",), client="quiet")])
        for _ in range(10):
            await instance.driver.seen([Worker(instance.id(), "x86_64", ("build",), client="loud") for _ in range(100)])
        assert [one.types for one in await instance.driver.workers(60, [worker])] == [("build",)]

    async def shown(self, instance: Instance) -> dict[UUID, Worker]:
        """Return the workers that were seen in the last minute, which both methods have to show in the same way."""
        found = await instance.driver.workers(60)
        page = await instance.driver.worker_page(60, None, 100)
        assert list(page.workers) == list(found)
        return {one.id: one for one in found}

    @clause("W7")
    async def test_the_problem_of_a_worker(self, instance: Instance) -> None:
        """A worker is shown with its problem until it describes itself again without one, or says that it has none."""
        worker = instance.id()
        described = Worker(worker, "x86_64", ("build",), client="a")
        for problem in ("the disk is full", 'caf\u00e9 \U0001f525 is "down"\\', "x" * 500):
            await instance.driver.seen([msgspec.structs.replace(described, problem=problem)])
            assert (await self.shown(instance))[worker].problem == problem
        await instance.driver.seen([Worker(worker, "", client="a"), Worker(worker, "")])
        assert (await self.shown(instance))[worker].problem == "x" * 500
        await instance.driver.seen([described])
        assert (await self.shown(instance))[worker].problem is None
        await instance.driver.seen([Worker(worker, "", client="a", problem="no network")])
        shown = (await self.shown(instance))[worker]
        assert (shown.types, shown.problem) == (("build",), "no network")
        await instance.driver.seen([Worker(worker, "", client="b", problem="not mine")])
        assert (await self.shown(instance))[worker].problem == "no network"
        await instance.driver.seen([Worker(worker, "", client="a", problem="")])
        shown = (await self.shown(instance))[worker]
        assert (shown.types, shown.problem) == (("build",), None)

    @clause("W8", "W9")
    async def test_a_worker_that_signs_off(self, instance: Instance) -> None:
        """A worker that signed off is not shown until it describes itself again, whatever is reported late of it."""
        worker, other = instance.id(), instance.id()
        described = Worker(worker, "x86_64", ("build",), client="a")
        await instance.driver.seen([described, Worker(other, "x86_64", ("build",), client="a")])
        job_id, token = await instance.add(), instance.id()
        await instance.driver.claim([Claim(token, (BUILD,), 600.0, worker_id=worker)], PLENTY)
        await instance.driver.sign_off([Worker(worker, "", client="a")])
        late = msgspec.structs.replace(described, age=10.0)
        alive = [Worker(worker, "", client="a"), Worker(worker, ""), Worker(worker, "", client="a", problem="full")]
        await instance.driver.seen([late, *alive])
        assert list(await self.shown(instance)) == [other]
        assert await instance.driver.workers(60, [worker]) == []
        assert await instance.touch(token) is AttemptState.RUNNING
        await instance.driver.sign_off([Worker(worker, "", client="a"), Worker(instance.id(), "", client="a")])
        await instance.pass_time(1.0)
        await instance.driver.seen([msgspec.structs.replace(described, types=("test",))])
        shown = await self.shown(instance)
        assert list(shown) == [worker, other]
        assert (shown[worker].types, shown[worker].jobs) == (("test",), (job_id,))

    @clause("W8")
    async def test_another_client_signs_off(self, instance: Instance) -> None:
        """Only the client of a worker signs it off; after that, the id belongs to the next client that names it."""
        worker = instance.id()
        await instance.driver.seen([Worker(worker, "x86_64", ("build",), client="a")])
        await instance.driver.sign_off([Worker(worker, "", client="b")])
        assert (await self.shown(instance))[worker].types == ("build",)
        await instance.driver.sign_off([Worker(worker, "", client="a")])
        assert await self.shown(instance) == {}
        await instance.driver.seen([Worker(worker, "aarch64", ("test",), client="b")])
        assert (await self.shown(instance))[worker].types == ("test",)
        await instance.driver.seen([Worker(worker, "x86_64", ("build",), client="a")])
        assert (await self.shown(instance))[worker].types == ("test",)

    @clause("W9")
    async def test_what_is_reported_late(self, instance: Instance) -> None:
        """The latest report of a worker is shown, also if another server reports an earlier one afterwards."""
        worker = instance.id()
        await instance.driver.seen([Worker(worker, "")])
        await instance.driver.seen([Worker(worker, "x86_64", ("build",), problem="full", age=5.0)])
        await instance.driver.seen(
            [Worker(worker, "x86_64", ("old",), age=20.0), Worker(worker, "", problem="", age=20.0)]
        )
        shown = (await self.shown(instance))[worker]
        assert (shown.types, shown.problem) == (("build",), "full")
        await instance.driver.seen([Worker(worker, "x86_64", ("test",), age=1.0)])
        shown = (await self.shown(instance))[worker]
        assert (shown.types, shown.problem, shown.age) == (("test",), None, 0.0)
