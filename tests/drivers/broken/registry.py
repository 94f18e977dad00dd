"""The list of drivers that are broken on purpose; `breaks` puts a class there."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from composerd.driver.simple.transaction import Transaction

from .right import DictShelf, Right

C = TypeVar("C", bound=type)


class Broken(NamedTuple):
    """A driver that does not keep a clause, and what it does instead."""

    clause: str
    name: str
    what: str
    driver: type[Right]


BROKEN: list[Broken] = []


def breaks(clause: str) -> Callable[[C], C]:
    """Let a class be the driver that breaks this clause: a driver, or the meaning or the shelf of one; its docstring says how."""

    def note(cls: C) -> C:
        if issubclass(cls, Transaction):
            driver = type(cls.__name__, (Right,), {"transaction_class": cls})
        elif issubclass(cls, DictShelf):
            driver = type(cls.__name__, (Right,), {"shelf_type": cls})
        else:
            driver = cls
        BROKEN.append(Broken(clause, cls.__name__, (cls.__doc__ or "").strip(), driver))
        return cls

    return note
