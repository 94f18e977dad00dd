"""The list of drivers that are broken on purpose, and the decorator `breaks`, which adds a class to it."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from composerd.driver.simple.transaction import Transaction

from .correct import Correct, DictShelf

C = TypeVar("C", bound=type)


class Broken(NamedTuple):
    """A driver that breaks a clause, and what it does wrong."""

    clause: str
    name: str
    what: str
    driver: type[Correct]


BROKEN: list[Broken] = []


def breaks(clause: str) -> Callable[[C], C]:
    """Add a class to the list as the driver that breaks this clause. Its docstring says what it does wrong.

    The class is a driver, or the shelf or the transaction of one.
    """

    def note(cls: C) -> C:
        if issubclass(cls, Transaction):
            driver = type(cls.__name__, (Correct,), {"transaction_class": cls})
        elif issubclass(cls, DictShelf):
            driver = type(cls.__name__, (Correct,), {"shelf_type": cls})
        else:
            driver = cls
        BROKEN.append(Broken(clause, cls.__name__, (cls.__doc__ or "").strip(), driver))
        return cls

    return note
