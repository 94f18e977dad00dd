"""Tests of the workers that a storage remembers: who they are, whose they are, and their pages."""

from composerd.models import Claim, Worker, WorkerCursor
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
