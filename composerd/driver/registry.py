"""Which storage drivers are installed, and which of them a storage URL means: entry points of the group `composerd.drivers`."""

import re
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

import msgspec

from composerd.driver.contract import CONTRACT_VERSION, Capabilities, Driver
from composerd.driver.guard import Guard, Observer, unobserved
from composerd.errors import ComposerdError, StorageURLError

GROUP = "composerd.drivers"

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)", re.IGNORECASE)


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
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, _distribution(point)))
    return [_describe(point, points) for point in points]


def open_driver(url: str, observe: Observer = unobserved) -> Guard:
    """Make the driver that a storage URL means, unopened and guarded; `observe` is told of every call of it.

    Raises `StorageURLError` for a scheme that nobody, or more than one distribution, has, for a driver that cannot be
    loaded or is of another contract, and for whatever the driver itself finds wrong with the URL.
    """
    match = _SCHEME.match(url)
    if match is None:
        raise StorageURLError(
            f"{_without_secret(url)!r} is not a storage URL: it begins with a scheme, one of {_schemes()}"
        )
    scheme = match[0].lower()
    points = [point for point in entry_points(group=GROUP) if point.name == scheme]
    if not points:
        raise StorageURLError(f"no storage driver for {scheme!r} is installed; there are {_schemes()}")
    if clash := _clash(scheme, points):
        raise StorageURLError(clash)
    try:
        return Guard(_load(points[0]).from_url(url), observe)
    except ComposerdError:
        raise
    except (Exception, SystemExit) as exc:
        raise StorageURLError(
            f"the storage driver {scheme!r} of {_distribution(points[0])} cannot be loaded: {type(exc).__name__}: {exc}"
        ) from exc


def _load(point: EntryPoint) -> type[Driver]:
    driver = point.load()
    if not (isinstance(driver, type) and issubclass(driver, Driver)):
        raise StorageURLError(
            f"the entry point {point.value} of {_distribution(point)} is not a composerd.driver.Driver"
        )
    written_for = str(getattr(driver, "contract", "unknown"))
    if written_for.partition(".")[0] != CONTRACT_VERSION.partition(".")[0]:
        raise StorageURLError(
            f"the storage driver {point.name!r} of {_distribution(point)} was written for contract {written_for}; "
            f"this composerd has {CONTRACT_VERSION}"
        )
    if lacking := ", ".join(sorted(driver.__abstractmethods__)):
        raise StorageURLError(f"the storage driver {point.name!r} of {_distribution(point)} lacks methods: {lacking}")
    return driver


def _describe(point: EntryPoint, points: Sequence[EntryPoint]) -> InstalledDriver:
    dist = point.dist
    about = InstalledDriver(
        scheme=point.name, distribution=dist.name if dist else "?", version=dist.version if dist else "?"
    )
    if clash := _clash(point.name, [other for other in points if other.name == point.name]):
        return msgspec.structs.replace(about, error=clash)
    try:
        driver = _load(point)
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # whatever an import raises is that driver's trouble, not the others'
        return msgspec.structs.replace(
            about, error=f"{type(exc).__name__}: {exc}" if not isinstance(exc, StorageURLError) else str(exc)
        )
    capabilities = getattr(driver, "capabilities", None)
    return msgspec.structs.replace(
        about, contract=driver.contract, capabilities=capabilities if isinstance(capabilities, Capabilities) else None
    )


def _clash(scheme: str, points: Sequence[EntryPoint]) -> str | None:
    owners = sorted({_distribution(point) for point in points})
    if len(points) < 2:
        return None
    return f"the storage scheme {scheme!r} is claimed by {' and '.join(owners)}: uninstall one of them"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def _schemes() -> str:
    return ", ".join(sorted({point.name for point in entry_points(group=GROUP)})) or "none installed"


def _without_secret(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)
