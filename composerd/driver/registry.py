"""The installed storage drivers, found by entry points (`composerd.drivers`), and the driver that a URL names."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint

import msgspec

from composerd.driver.contract import CONTRACT_VERSION, Driver
from composerd.driver.guard import Guard, Observer, unobserved
from composerd.driver.values import Capabilities
from composerd.errors import StorageURLError
from composerd.plugins import Plugins

DRIVERS = Plugins(
    Driver, group="composerd.drivers", contract=CONTRACT_VERSION, url_noun="storage", plugin_noun="storage driver"
)


class InstalledDriver(msgspec.Struct, frozen=True, kw_only=True):
    """A description of one entry point, usable or not."""

    scheme: str
    distribution: str
    version: str
    contract: str | None = None
    """The contract version for which the driver was written; None if it cannot be loaded."""
    capabilities: Capabilities | None = None
    """The driver's capabilities; None if only an open storage has them, or if the driver cannot be loaded."""
    error: str | None = None
    """The reason why the driver cannot be used; None if it can."""


def installed() -> Sequence[InstalledDriver]:
    """Return every installed driver, ordered by scheme; one that cannot be used has an `error`.

    Every driver is imported. Nothing is opened, and nothing is raised.
    """
    return [_describe(point) for point in DRIVERS.points()]


def open_driver(url: str, observe: Observer = unobserved) -> Guard:
    """Return the driver that a storage URL names, guarded and not open. `observe` is called after each of its calls.

    Raises `StorageURLError` if no driver, or no usable one, is installed for the URL, or if the URL is wrong.
    """
    return Guard(DRIVERS.open(url), observe)


def _describe(point: EntryPoint) -> InstalledDriver:
    dist = point.dist
    about = InstalledDriver(
        scheme=point.name, distribution=dist.name if dist else "?", version=dist.version if dist else "?"
    )
    try:
        driver = DRIVERS.load(point)
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # an import may raise anything; other drivers still work
        return msgspec.structs.replace(
            about, error=f"{type(exc).__name__}: {exc}" if not isinstance(exc, StorageURLError) else str(exc)
        )
    capabilities = getattr(driver, "capabilities", None)
    return msgspec.structs.replace(
        about, contract=driver.contract, capabilities=capabilities if isinstance(capabilities, Capabilities) else None
    )
