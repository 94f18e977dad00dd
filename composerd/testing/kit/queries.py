"""Tests of queries: listings and cursors, payloads, the jobs ahead of one."""

import os
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from composerd.driver import StoredJob
from composerd.errors import Unavailable
from composerd.models import IdPage, Job, JobFilter, JobState, PayloadKind, PayloadRef
from composerd.testing.kit.clause import clause
from composerd.testing.kit.instance import PLENTY, Instance

ALL = JobFilter()
START = datetime(2020, 1, 1, tzinfo=UTC)
PAYLOADS = {
    "spelled oddly": b'{ "b":1.0e2,"a" : "\\u00e9\xc3\xa9", "b":2 }',
    "empty": b"",
    "not JSON": bytes(range(256)),
    "like a journal": b"cdF\n" * 40 + b"cdjrnl\r\n",
    "large": os.urandom(1024) * 2048,
}


class Queries:
    """Queries: listings and cursors, payloads, the jobs ahead of one."""

    @clause("V1")
    async def test_newest_first(self, instance: Instance) -> None:
        """`list` returns the newest submission first, in pages; the last page has no next one."""
        ids = [await instance.add() for _ in range(7)]
        jobs: list[Job] = []
        sizes = []
        cursor = None
        while True:
            page = await instance.driver.list(ALL, cursor, 3)
            jobs += page.jobs
            sizes.append(len(page.jobs))
            cursor = page.next
            if cursor is None:
                break
            assert 0 < cursor < 2**63
        assert [job.id for job in jobs] == ids[::-1]
        assert max(sizes) == 3

    @clause("V2")
    async def test_a_listed_job(self, instance: Instance) -> None:
        """A listed job is as `get` returns it, without its dependencies, its dependents and its progress."""
        job_id = await instance.add(await instance.add())
        await instance.add(job_id)
        listed = (await instance.driver.list(ALL, None, 10)).jobs[1]
        job = await instance.get(job_id)
        assert len(job.dependencies) == len(job.dependents) == 1
        assert listed == msgspec.structs.replace(job, dependencies=(), dependents=())

    @clause("V8")
    async def test_jobs_by_id_as_listed(self, instance: Instance) -> None:
        """`listed` returns jobs by id, in the order of the ids, as a listing shows them."""
        ids = [await instance.add()]
        ids.append(await instance.add(ids[0], priority=3))
        await instance.touch(await instance.take(ids[0]), b"progress")
        shown = (await instance.driver.list(ALL, None, 10)).jobs
        assert await instance.driver.listed([ids[1], instance.id(), *ids]) == [shown[0], None, shown[1], shown[0]]
        assert shown[1].state is JobState.RUNNING
        assert list(await instance.driver.listed([])) == []

    @clause("V9", "P3")
    async def test_pages_of_dependents(self, instance: Instance) -> None:
        """`dependents` shows those that stay once, in the order of submission, while others come and go."""
        job_id = await instance.add()
        ids = [await instance.add(job_id, job_id) for _ in range(9)]
        shown: list[UUID] = []
        cursor = None
        for n in range(100):
            page = await instance.driver.dependents(job_id, cursor, 2)
            assert page is not None
            assert len(page.ids) <= 2
            shown += page.ids
            cursor = page.next
            if cursor is None:
                break
            assert 0 < cursor < 2**63
            gone = ids[n * 2]  # some shown already, some not yet
            await instance.cancel(gone)
            await instance.delete(gone)
        stayed = [one for one in ids if (await instance.driver.get([one]))[0] is not None]
        assert [one for one in shown if one in stayed] == stayed
        assert len(shown) == len(set(shown))

    @clause("V9")
    async def test_no_dependents(self, instance: Instance) -> None:
        """A job that nothing depends on has an empty page of dependents; one that does not exist has none."""
        job_id = await instance.add()
        assert await instance.driver.dependents(job_id, None, 5) == IdPage((), None)
        assert await instance.driver.dependents(job_id, 2**63 - 1, 5) == IdPage((), None)
        assert await instance.driver.dependents(instance.id(), None, 5) is None

    @clause("V2")
    async def test_filters(self, instance: Instance) -> None:
        """`list` returns exactly the jobs that pass a filter, for each filter and for all of them together."""
        fields = [(type_, channel, arch) for type_ in "ab" for channel in ("", "c") for arch in (None, "x86_64")]
        ids = {each: await instance.add(type=each[0], channel=each[1], arch=each[2]) for each in fields}
        canceled = ids["b", "c", "x86_64"]
        await instance.cancel(canceled)
        for chosen, expected in [
            (JobFilter(type="a"), {ids[each] for each in fields if each[0] == "a"}),
            (JobFilter(channel=""), {ids[each] for each in fields if each[1] == ""}),
            (JobFilter(arch="x86_64"), {ids[each] for each in fields if each[2] == "x86_64"}),
            (JobFilter(state=JobState.CANCELED), {canceled}),
            (JobFilter(state=JobState.READY, type="b", channel="c", arch="x86_64"), set()),
            (JobFilter(state=JobState.CANCELED, type="b", channel="c", arch="x86_64"), {canceled}),
        ]:
            assert {job.id for job in (await instance.driver.list(chosen, None, 100)).jobs} == expected

    @clause("V12", "V1")
    async def test_several_states(self, instance: Instance) -> None:
        """`list` shows the jobs in any of several states together, newest first, over all pages."""
        ids = [await instance.add(type="build" if n % 2 else "a") for n in range(9)]
        for one in ids[::3]:
            await instance.cancel(one)
        await instance.end(ids[1])
        for states, type, expected in [
            ((JobState.READY, JobState.CANCELED), None, [one for one in ids if one != ids[1]]),
            ((JobState.CANCELED, JobState.FINISHED), None, [ids[0], ids[1], ids[3], ids[6]]),
            ((JobState.CANCELED, JobState.FINISHED, JobState.WAITING), "a", [ids[0], ids[6]]),
            ((JobState.FAILED, JobState.WAITING), None, []),
        ]:
            shown: list[UUID] = []
            cursor: int | None = None
            while True:
                page = await instance.driver.list(JobFilter(type=type, states=states), cursor, 2)
                shown += [job.id for job in page.jobs]
                cursor = page.next
                if cursor is None:
                    break
            assert shown == expected[::-1]

    @clause("V13")
    async def test_jobs_of_other_channels(self, instance: Instance) -> None:
        """The pages of a channel, and that there is a next one, do not depend on where jobs of other channels are."""
        pages: dict[str, list[list[int]]] = {}
        for channel in ("alone", "among"):
            own = {}
            for n in range(6):
                if channel == "among":
                    await instance.add(channel="" if n % 2 else "other")
                    await instance.add(channel="other")
                own[await instance.add(channel=channel)] = n
                if n % 2:
                    await instance.cancel([*own][-1])
            pages[channel] = []
            for state in (None, JobState.CANCELED):
                for limit in (1, 2, 4, 6, 7):
                    cursor: int | None = None
                    while True:
                        page = await instance.driver.list(JobFilter(state=state, channel=channel), cursor, limit)
                        pages[channel].append([own[job.id] for job in page.jobs])
                        cursor = page.next
                        if cursor is None:
                            break
        assert pages["among"] == pages["alone"]

    @clause("V3")
    async def test_a_listing_is_stable(self, instance: Instance) -> None:
        """While jobs are submitted, requeued and deleted, those that stay are listed once, in the same order."""
        ids = [await instance.add() for _ in range(12)]
        shown: list[Job] = []
        cursor: int | None = None
        for n in range(100):
            page = await instance.driver.list(ALL, cursor, 2)
            shown += page.jobs
            cursor = page.next
            if cursor is None:
                break
            await instance.add(priority=n)
            gone = ids[n * 2]  # some shown already, some not yet
            await instance.cancel(gone)
            await instance.delete(gone)
            await instance.release(await instance.take())
        stayed = [one for one in ids if (await instance.driver.get([one]))[0] is not None]
        assert [job.id for job in shown if job.id in stayed] == stayed[::-1]
        assert {job.id for job in shown} <= set(ids)
        assert len(shown) == len({job.id for job in shown})

    @pytest.mark.parametrize("cursor", [1, 3, 10**6, 2**63 - 1])
    @clause("V3")
    async def test_an_unknown_cursor(self, instance: Instance, cursor: int) -> None:
        """`list` accepts a cursor that was never given."""
        ids = [await instance.add() for _ in range(5)]
        shown = [job.id for job in (await instance.driver.list(ALL, cursor, 10)).jobs]
        assert shown == [one for one in ids[::-1] if one in shown]

    @pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
    @clause("V4")
    async def test_payloads_are_stored_byte_for_byte(self, instance: Instance, payload: bytes) -> None:
        """Args and results come back byte for byte, args also in the answer to a claim."""
        job_id = await instance.add(args=payload)
        claimed = await instance.claim()
        assert claimed is not None
        assert claimed.args == payload
        await instance.finish(claimed.token, payload[::-1])
        refs = [PayloadRef(job_id, PayloadKind.RESULT), PayloadRef(job_id, PayloadKind.ARGS)]
        assert await instance.driver.payload(refs) == [payload[::-1], payload]

    @clause("V4", "V5")
    async def test_missing_jobs_and_payloads(self, instance: Instance) -> None:
        """A job or payload that does not exist is None, and has no artifacts."""
        job_id = await instance.add(args=None)
        refs = [PayloadRef(one, kind) for one in (job_id, instance.id()) for kind in PayloadKind]
        assert await instance.driver.payload(refs) == [None] * 4
        assert await instance.driver.get([instance.id()]) == [None]
        assert await instance.driver.artifacts([instance.id(), job_id]) == [(), ()]

    @clause("V7")
    async def test_a_lost_result(self, instance: Instance) -> None:
        """A result that has to be there and is not found is an error; one that cannot be there yet is None.

        A job that is loaded without its result stands for one whose result is lost.
        """
        ended = []
        for state in (JobState.FINISHED, JobState.FAILED, JobState.CANCELED):
            new = instance.new()
            job = Job(
                id=new.id,
                type=new.type,
                arch=new.arch,
                channel=new.channel,
                state=state,
                priority=new.priority,
                queued_at=START,
                not_before=None,
                started_at=START,
                finished_at=START,
                retries=0,
                dependencies=(),
            )
            await instance.driver.load([StoredJob(new=new, job=job)])
            ended.append(new.id)
        finished, failed, canceled = ended
        for job_id in (finished, failed):
            for read in (
                instance.driver.payload([PayloadRef(job_id, PayloadKind.RESULT)]),
                instance.driver.payloads_up_to([PayloadRef(job_id, PayloadKind.RESULT)], PLENTY),
                instance.driver.payload_part(PayloadRef(job_id, PayloadKind.RESULT), 0, 1),
            ):
                with pytest.raises(Unavailable):
                    await read
            assert await instance.args(job_id) == b'{"n":1}'
        ready = await instance.add()
        assert [await instance.result(job_id) for job_id in (canceled, ready)] == [None, None]

    @clause("V4", "G1")
    async def test_many_payloads_at_once(self, instance: Instance) -> None:
        """Payloads are answered in the order of the references, repetitions included."""
        ids = [await instance.add(args=b"%d" % n * n) for n in range(50)]
        refs = [PayloadRef(ids[n * 7 % 50], PayloadKind.ARGS) for n in range(80)]
        assert await instance.driver.payload(refs) == [b"%d" % (n * 7 % 50) * (n * 7 % 50) for n in range(80)]

    @clause("V10", "G1")
    async def test_payloads_up_to_a_limit(self, instance: Instance) -> None:
        """Payloads are answered as long as they fit into the limit together, and their sizes after that."""
        ids = [await instance.add(args=b"%d" % n * 10) for n in range(4)]
        refs = [PayloadRef(one, PayloadKind.ARGS) for one in (*ids[:2], instance.id(), *ids[2:], ids[0])]
        refs.insert(1, PayloadRef(ids[0], PayloadKind.RESULT))
        whole = await instance.driver.payload(refs)
        none = [10, None, 10, None, 10, 10, 10]
        for limit, fitting in ((PLENTY, 7), (50, 7), (49, 6), (29, 4), (20, 4), (19, 2), (10, 2), (9, 0), (0, 0)):
            expected = [*whole[:fitting], *none[fitting:]]
            assert await instance.driver.payloads_up_to(refs, limit) == expected
        assert await instance.driver.payloads_up_to([], 10) == []

    @clause("V10", "V11")
    @pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
    async def test_sizes_and_parts_are_bytes(self, instance: Instance, payload: bytes) -> None:
        """Sizes and parts count bytes, whatever the payload is: the parts of a payload together are the payload."""
        ref = PayloadRef(await instance.add(args=payload), PayloadKind.ARGS)
        (size,) = await instance.driver.payloads_up_to([ref], len(payload) - 1)
        assert isinstance(size, int), "the payload is larger than was allowed"
        assert size == len(payload)
        step = max(len(payload) // 3, 1)
        parts = [await instance.driver.payload_part(ref, at, at + step) for at in range(0, len(payload), step)]
        is_whole = b"".join(part or b"" for part in parts) == payload  # pytest takes minutes to compare large bytes
        assert is_whole, "the parts of the payload together are not the payload"

    @clause("V11")
    async def test_parts_of_payloads(self, instance: Instance) -> None:
        """A part has the bytes from its start to its stop, but none after the end of the payload."""
        args, result = b'"%s"' % bytes(range(35, 92)), b'"%s"' % (b"0123456789abcdef" * 20_000)
        job_id = await instance.add(args=args)
        await instance.finish(await instance.take(), result)
        for kind, payload in ((PayloadKind.ARGS, args), (PayloadKind.RESULT, result)):
            for start, stop in ((0, 1), (0, 10**6), (1, 3), (20, 50), (30, 10**6), (10**6, 10**6 + 1)):
                part = await instance.driver.payload_part(PayloadRef(job_id, kind), start, stop)
                is_part = part == payload[start:stop]
                assert is_part, f"the bytes from {start} to {stop} are not those of the payload"

    @clause("V11")
    async def test_parts_that_do_not_exist(self, instance: Instance) -> None:
        """A part of a payload that does not exist, or no longer, is None."""
        job_id = await instance.add(args=None)
        missing = (
            PayloadRef(instance.id(), PayloadKind.ARGS),
            PayloadRef(job_id, PayloadKind.ARGS),
            PayloadRef(job_id, PayloadKind.RESULT),
        )
        assert [await instance.driver.payload_part(ref, 0, 10) for ref in missing] == [None] * 3
        ended = await instance.add(args=b"12345", type="other")
        ref = PayloadRef(ended, PayloadKind.ARGS)
        assert await instance.driver.payload_part(ref, 0, 2) == b"12"
        await instance.cancel(ended)
        await instance.driver.delete([ended])
        assert await instance.driver.payload_part(ref, 2, 4) is None

    @clause("V6")
    async def test_jobs_ahead(self, instance: Instance) -> None:
        """`ahead` counts the ready jobs of the same key that have a higher priority or an earlier position."""
        ids = [await instance.add(priority=n % 2) for n in range(6)]
        await instance.add(type="other", priority=9)
        await instance.cancel(ids[1])
        assert [await instance.driver.ahead(job_id, 100) for job_id in ids] == [2, 0, 3, 0, 4, 1]
        assert await instance.driver.ahead(ids[4], 3) == 3
        assert await instance.driver.ahead(instance.id(), 100) == 0
