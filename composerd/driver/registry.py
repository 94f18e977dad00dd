"""Which storage drivers are installed, and which of them a storage URL means: entry points of the group `composerd.drivers`."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint

import msgspec

from composerd.driver.contract import CONTRACT_VERSION, Capabilities, Driver
from composerd.driver.guard import Guard, Observer, unobserved
from composerd.errors import StorageURLError
from composerd.plugins import Plugins

DRIVERS = Plugins(
    Driver, group="composerd.drivers", contract=CONTRACT_VERSION, url_noun="storage", plugin_noun="storage driver"
)


class InstalledDriver(msgspec.Struct, frozen=True, kw_only=True):
    """One entry point, whether it can be used or not."""

    scheme: str
    distribution: str
    version: str
    contract: str | None = None
    """The contract version that it was written for; None if it cannot be loaded."""
    capabilities: Capabilities | None = None
    """None if they are known only of an opened storage, or if it cannot be loaded."""
    error: str | None = None
    """Why it cannot be used."""


def installed() -> Sequence[InstalledDriver]:
    """Every driver that is installed, by scheme; those that cannot be used say why."""
    return [_describe(point) for point in DRIVERS.points()]


def open_driver(url: str, observe: Observer = unobserved) -> Guard:
    """Make the driver that a storage URL means, unopened and guarded; `observe` is told of every call of it.

    Raises `StorageURLError`.
    """
    return Guard(DRIVERS.open(url), observe)


def _describe(point: EntryPoint) -> InstalledDriver:
    dist = point.dist
    about = InstalledDriver(
        scheme=point.name, distribution=dist.name if dist else "?", version=dist.version if dist else "?"
    )
    try:
        driver = DRIVERS.load(point)
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # whatever an import raises is that driver's trouble, not the others'
        return msgspec.structs.replace(
            about, error=f"{type(exc).__name__}: {exc}" if not isinstance(exc, StorageURLError) else str(exc)
        )
    capabilities = getattr(driver, "capabilities", None)
    return msgspec.structs.replace(
        about, contract=driver.contract, capabilities=capabilities if isinstance(capabilities, Capabilities) else None
    )
