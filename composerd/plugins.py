"""Classes that other distributions add through entry points of a group, one for each URL scheme."""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from composerd.errors import ComposerdError, StorageURLError

T = TypeVar("T")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)", re.IGNORECASE)


class Plugins(Generic[T]):
    """The plugins of one kind: classes that can create an object from a URL."""

    def __init__(self, kind: Callable[..., T], *, group: str, contract: str, url_noun: str, plugin_noun: str) -> None:
        """Use the entry points of `group`: subclasses of `kind`, written for this version of its `contract`.

        In messages a URL is called a `url_noun` URL, and one of the classes a `plugin_noun`.
        """
        self._kind: Any = kind
        self._group = group
        self._contract = contract
        self._url_noun = url_noun
        self._plugin_noun = plugin_noun

    def points(self) -> Sequence[EntryPoint]:
        """Return all entry points, sorted by scheme."""
        return sorted(entry_points(group=self._group), key=lambda point: (point.name, distribution(point)))

    def open(self, url: str) -> T:
        """Create the object that a URL names, with the class of its scheme.

        Raises `StorageURLError` if no distribution, or more than one, has the scheme, if the class cannot be loaded or
        is of another contract, and if the class finds something wrong with the URL.
        """
        scheme = scheme_of(url)
        if scheme is None:
            raise StorageURLError(
                f"{_without_secret(url)!r} is not a {self._url_noun} URL: "
                f"it has to begin with a scheme, one of {self._schemes()}"
            )
        point = next((point for point in self.points() if point.name == scheme), None)
        if point is None:
            raise StorageURLError(f"no {self._plugin_noun} for {scheme!r} is installed; installed: {self._schemes()}")
        try:
            created: T = self.load(point).from_url(url)
        except ComposerdError:
            raise
        except (Exception, SystemExit) as exc:
            raise StorageURLError(
                f"cannot load the {self._plugin_noun} {scheme!r} of {distribution(point)}: {type(exc).__name__}: {exc}"
            ) from exc
        return created

    def load(self, point: EntryPoint) -> Any:
        """Return the class of an entry point.

        Raises `StorageURLError` if the class cannot be used, and every exception that its import raises.
        """
        owners = sorted({distribution(other) for other in self.points() if other.name == point.name})
        if len(owners) > 1:
            raise StorageURLError(
                f"the {self._url_noun} scheme {point.name!r} is claimed by {' and '.join(owners)}: uninstall one"
            )
        owner = distribution(point)
        found: Any = point.load()
        if not (isinstance(found, type) and issubclass(found, self._kind)):
            kind = f"{self._kind.__module__.rpartition('.')[0]}.{self._kind.__name__}"
            raise StorageURLError(f"the entry point {point.value} of {owner} is not a {kind}")
        written_for = str(getattr(found, "contract", "unknown"))
        if written_for.partition(".")[0] != self._contract.partition(".")[0]:
            raise StorageURLError(
                f"the {self._plugin_noun} {point.name!r} of {owner} was written for contract {written_for}; "
                f"this composerd has {self._contract}"
            )
        if missing := ", ".join(sorted(getattr(found, "__abstractmethods__", ()))):
            raise StorageURLError(f"the {self._plugin_noun} {point.name!r} of {owner} lacks methods: {missing}")
        return found

    def _schemes(self) -> str:
        return ", ".join(sorted({point.name for point in self.points()})) or "none"


def scheme_of(text: str) -> str | None:
    """Return the scheme that a text begins with, in lower case, or None."""
    match = _SCHEME.match(text)
    return match[0].lower() if match else None


def distribution(point: EntryPoint) -> str:
    """Return the name of the distribution that an entry point belongs to."""
    return point.dist.name if point.dist else "an unknown distribution"


def _without_secret(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)
