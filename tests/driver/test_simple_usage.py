"""The counts of the simple driver: a storage from before there were counts is counted when it is opened."""

from pathlib import Path

import msgspec

from composerd.driver import Usage
from composerd.driver.simple.changes import Memo
from composerd.testing.kit.instance import BUILD, Instance

from ..drivers.broken.correct import Correct, DictShelf


async def test_a_storage_from_before_is_counted(tmp_path: Path) -> None:
    """After an earlier version had the storage, which counts nothing, the next start counts all jobs."""
    driver = Correct.from_url(f"correct:{tmp_path}/storage")
    await driver.start()
    instance = Instance(driver, lambda: Correct.from_url(f"correct:{tmp_path}/storage"))
    await instance.add(channel="other", args=b"123")
    job_id = await instance.add(args=b"12")
    token = await instance.take(job_id)
    await instance.attach(token, "a")
    await instance.finish(token, b"4567")
    expected = [Usage(0, 0, 6, 3), Usage(1, 0, 3, 0)]
    assert await driver.usage([BUILD.channel, "other"]) == expected

    shelf = driver.shelf
    assert isinstance(shelf, DictShelf)
    shelf.used = {}
    for record in shelf.records.values():
        record.args_size = record.result_size = 0
    memo = msgspec.msgpack.decode(shelf.memo() or b"", type=Memo)
    shelf.store_memo(msgspec.msgpack.encode(msgspec.structs.replace(memo, counted=False)))
    shelf.save()

    await instance.reopen()
    assert await instance.driver.usage([BUILD.channel, "other"]) == expected
    await instance.delete(job_id)
    assert await instance.driver.usage([BUILD.channel, "other"]) == [Usage(), expected[1]]
    await instance.close()
