"""What the fs driver counts of the jobs of each channel: kept in no file, counted when the journal is read."""

import shutil
from pathlib import Path

from composerd.driver import Usage
from composerd_fs import FsDriver
from composerd_fs.state.queries import counted_usage
from composerd_fs.state.table import Table

from ..conftest import Instance, opened

WRITTEN = Path(__file__).with_name("written")


async def test_storages_from_before_are_counted(tmp_path: Path) -> None:
    """A start counts the jobs of a journal, and of a checkpoint with archived jobs, that earlier versions wrote."""
    for written in WRITTEN.iterdir():
        shutil.copytree(written / "journal", tmp_path / written.name / "journal")
        driver = await opened(tmp_path / written.name)
        table: Table = driver._table
        assert counted_usage(table).differing(table.jobs.usage) == []
        (used,) = await driver.usage([""])
        assert used.payloads > 0
        assert used.artifacts > 0
        await driver.close()


async def test_a_channel_without_jobs_is_forgotten(fs: Instance) -> None:
    """A channel whose last job is deleted takes no memory any more."""
    for n in range(3):
        job_id = await fs.add(channel=f"c{n}")
        await fs.cancel(job_id)
        await fs.delete(job_id)
    table: Table = fs.driver._table  # type: ignore[attr-defined]
    assert table.jobs.usage.channels == set()


async def test_a_check_counts(fs: Instance) -> None:
    """A check compares the counts with the jobs."""
    await fs.add(channel="c")
    await fs.driver.close()
    check = await FsDriver(fs.directory).check()
    assert check.problems == ()
    driver = FsDriver(fs.directory)
    driver._table.jobs.usage.count_payloads("c", 5)
    (problem,) = (await driver.check()).problems
    assert f"channel 'c' use {Usage(1, 0, 7, 0)}" in problem
