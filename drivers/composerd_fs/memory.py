"""The driver `memory`: the contract on one table in the memory of this process."""

from secrets import token_bytes
from typing import Self

from composerd.driver import Capabilities, StorageCheck, StorageInfo
from composerd.driver.contract import SECRET_SIZE
from composerd.driver.timekeeper import ClockState
from composerd.errors import StorageUnusable, StorageURLError
from composerd_fs.commit import NullLog
from composerd_fs.table_driver import TableDriver


class MemoryDriver(TableDriver):
    """The driver `memory`: keeps jobs in the memory of this process. They are lost when it ends.

    It is for tests and for trying things out: only one server can use it, and it offers no directory for artifacts.
    """

    name = "memory"
    capabilities = Capabilities(
        durable=False,
        shared=False,
        max_submission=100_000,
        max_payload=1024**3,
        coalesces=True,
        compares_artifacts=True,
        counts_usage=True,
    )

    def __init__(self) -> None:
        super().__init__(NullLog())

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver of `memory:`."""
        rest = url.partition(":")[2]
        if rest.strip("/"):
            raise StorageURLError(f"{url!r}: memory: takes no path and no options")
        return cls()

    async def start(self, *, create: bool = True) -> None:
        if not create:
            raise StorageUnusable("memory: has no jobs from an earlier process; use another storage")
        self._time.open(ClockState(), {})
        self._secret = self._secret or token_bytes(SECRET_SIZE)

    async def close(self) -> None:
        pass

    async def migrate(self) -> None:
        await self.start(create=False)

    async def ping(self) -> None:
        pass

    async def check(self) -> StorageCheck:
        await self.start(create=False)
        return StorageCheck(jobs={})

    async def info(self) -> StorageInfo:
        return StorageInfo(description="memory of this process", jobs=self._counts(), details=self._time.dispute())
