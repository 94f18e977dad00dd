"""The quotas of a server over a storage that does not count what tenants have."""

from pathlib import Path

import msgspec
import pytest

from composerd.quotas import Limits
from composerd.server.quotas import running_quotas
from composerd.settings import Settings, load
from composerd.watched_file import UnusableFile
from composerd_fs import MemoryDriver


class Older(MemoryDriver):
    """A driver that was written before drivers counted that."""

    capabilities = msgspec.structs.replace(MemoryDriver.capabilities, counts_usage=False)


def settings_of(directory: Path, quotas: str) -> Settings:
    """Return settings with a quotas file."""
    (directory / "tokens").touch()
    (directory / "quotas.toml").write_text(quotas)
    return load(
        {"tokens": str(directory / "tokens"), "quotas": str(directory / "quotas.toml")}, {"HOME": "/nowhere"}, None
    )


@pytest.mark.parametrize("quota", ["waiting_jobs", "running_jobs", "payload_bytes", "artifact_bytes"])
async def test_quotas_that_only_the_storage_knows(tmp_path: Path, quota: str) -> None:
    """A quota of what is stored refuses the start if the storage does not count it, whichever tenant it is for."""
    for table in ("default", "tenants.acme", "no-tenant"):
        settings = settings_of(tmp_path, f"[{table}]\n{quota} = 5")
        with pytest.raises(UnusableFile, match="which this storage does not count: remove them"):
            async with running_quotas(settings, Older()):
                pass


async def test_other_quotas(tmp_path: Path) -> None:
    """Quotas of what comes at the moment need nothing of the storage."""
    settings = settings_of(tmp_path, "[default]\nopen_waits = 5\nsubmissions_per_minute = 7")
    async with running_quotas(settings, Older()) as quotas:
        assert quotas is not None
        assert quotas.limits("org-acme") == Limits(open_waits=5, submissions_per_minute=7)


async def test_no_quotas() -> None:
    """Without a file there are no quotas."""
    async with running_quotas(load({}, {"HOME": "/nowhere"}, None), Older()) as quotas:
        assert quotas is None
