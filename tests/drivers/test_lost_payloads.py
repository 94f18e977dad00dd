"""Payloads that are removed behind the driver's back: nobody ever gets None for one that has to be there."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from composerd.errors import DriverError, Unavailable
from composerd.models import Claim, PayloadKind, PayloadRef, Verdict
from composerd.testing.kit.instance import BUILD, PLENTY, Instance
from composerd_postgres import PostgresDriver

from ..throwaway import Throwaway
from .broken.correct import Correct, DictShelf

Lose = Callable[[UUID, PayloadKind], Awaitable[None]]


@pytest.fixture(params=["simple", "postgresql"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Yield an instance, and a function that removes a payload from its storage."""
    if request.param == "simple":
        simple = Correct.from_url(f"broken:{tmp_path}/storage")

        shelf = simple.shelf
        assert isinstance(shelf, DictShelf)

        async def lose(job_id: UUID, kind: PayloadKind) -> None:
            del shelf.payloads[PayloadRef(job_id, kind)]
            shelf.save()

        instance = Instance(simple, lambda: Correct.from_url(f"broken:{tmp_path}/storage"))
    else:
        postgres: Throwaway = request.getfixturevalue("newest_postgres")
        driver = PostgresDriver.from_url(postgres.fresh())

        async def lose(job_id: UUID, kind: PayloadKind) -> None:
            table = "args" if kind is PayloadKind.ARGS else "results"
            postgres.sql(f"DELETE FROM {driver.options.schema}.{table} WHERE job_id = '{job_id}'")

        instance = Instance(driver, lambda: PostgresDriver(driver.options))
    await instance.driver.start()
    yield instance, lose
    await instance.close()


@pytest.mark.parametrize("kind", PayloadKind)
async def test_a_lost_payload_is_an_error(storage: tuple[Instance, Lose], kind: PayloadKind) -> None:
    """A payload that is lost is an error when it is read and in a dump, and a problem to `check`."""
    instance, lose = storage
    job_id = await instance.add()
    await instance.end(job_id)
    await lose(job_id, kind)
    with pytest.raises(Unavailable, match=f"the {kind} of the job {job_id}"):
        await instance.driver.payload([PayloadRef(job_id, kind)])
    with pytest.raises(Unavailable, match=str(job_id)):
        await instance.dump()
    await instance.driver.close()
    checked = instance.make_driver()
    (problem,) = (await checked.check()).problems
    assert str(job_id) in problem
    await checked.close()


async def test_a_job_with_lost_args_is_not_handed_out(storage: tuple[Instance, Lose]) -> None:
    """A claim of a job whose args are lost fails; after its release the job stands behind the others."""
    instance, lose = storage
    lost, other, without = await instance.add(), await instance.add(), await instance.add(args=None)
    await lose(lost, PayloadKind.ARGS)
    first, second, third = (Claim(instance.id(), (BUILD,), 60.0) for _ in range(3))
    for _ in range(2):  # the second time as a repetition
        with pytest.raises(DriverError, match=str(lost)):
            await instance.driver.claim([first, second], PLENTY)
    (claimed,) = (await instance.driver.claim([second], PLENTY)).items
    assert claimed is not None
    assert claimed.job_id == other
    await instance.release(first.token)
    (claimed,) = (await instance.driver.claim([third], PLENTY)).items
    assert claimed is not None
    assert (claimed.job_id, claimed.args) == (without, None)
    assert await instance.finish(third.token) is Verdict.ACCEPTED
