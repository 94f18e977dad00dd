"""What other distributions add: classes found by the entry points of a group, one for each URL scheme."""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from composerd.errors import ComposerdError, StorageURLError

T = TypeVar("T")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)", re.IGNORECASE)


class Plugins(Generic[T]):
    """The plugins of one kind: classes that are made from a URL."""

    def __init__(self, kind: Callable[..., T], *, group: str, contract: str, noun: str, what: str) -> None:
        """Entry points of `group` that are a subclass of `kind`, written for this version of its `contract`.

        Messages speak of a `noun` scheme, and call one of them a `what`.
        """
        self._kind: Any = kind
        self._group = group
        self._contract = contract
        self._noun = noun
        self._what = what

    def points(self) -> Sequence[EntryPoint]:
        """All entry points, by scheme."""
        return sorted(entry_points(group=self._group), key=lambda point: (point.name, distribution(point)))

    def open(self, url: str) -> T:
        """Make what a URL means.

        Raises `StorageURLError` for a scheme that nobody, or more than one distribution, has, for a class that cannot
        be loaded or is of another contract, and for whatever the class itself finds wrong with the URL.
        """
        scheme = scheme_of(url)
        if scheme is None:
            raise StorageURLError(
                f"{_without_secret(url)!r} is not a {self._noun} URL: it begins with a scheme, one of {self._schemes()}"
            )
        point = next((point for point in self.points() if point.name == scheme), None)
        if point is None:
            raise StorageURLError(f"no {self._what} for {scheme!r} is installed; there are {self._schemes()}")
        try:
            made: T = self.load(point).from_url(url)
        except ComposerdError:
            raise
        except (Exception, SystemExit) as exc:
            raise StorageURLError(
                f"the {self._what} {scheme!r} of {distribution(point)} cannot be loaded: {type(exc).__name__}: {exc}"
            ) from exc
        return made

    def load(self, point: EntryPoint) -> Any:
        """The class of an entry point. Raises `StorageURLError` if it cannot be used, and whatever its import raises."""
        owners = sorted({distribution(other) for other in self.points() if other.name == point.name})
        if len(owners) > 1:
            raise StorageURLError(
                f"the {self._noun} scheme {point.name!r} is claimed by {' and '.join(owners)}: uninstall one of them"
            )
        owner = distribution(point)
        found: Any = point.load()
        if not (isinstance(found, type) and issubclass(found, self._kind)):
            kind = f"{self._kind.__module__.rpartition('.')[0]}.{self._kind.__name__}"
            raise StorageURLError(f"the entry point {point.value} of {owner} is not a {kind}")
        written_for = str(getattr(found, "contract", "unknown"))
        if written_for.partition(".")[0] != self._contract.partition(".")[0]:
            raise StorageURLError(
                f"the {self._what} {point.name!r} of {owner} was written for contract {written_for}; "
                f"this composerd has {self._contract}"
            )
        if lacking := ", ".join(sorted(getattr(found, "__abstractmethods__", ()))):
            raise StorageURLError(f"the {self._what} {point.name!r} of {owner} lacks methods: {lacking}")
        return found

    def _schemes(self) -> str:
        return ", ".join(sorted({point.name for point in self.points()})) or "none installed"


def scheme_of(text: str) -> str | None:
    """The scheme that a URL begins with, in small letters; None if it begins with none."""
    match = _SCHEME.match(text)
    return match[0].lower() if match else None


def distribution(point: EntryPoint) -> str:
    """Whose entry point it is."""
    return point.dist.name if point.dist else "an unknown distribution"


def _without_secret(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)
