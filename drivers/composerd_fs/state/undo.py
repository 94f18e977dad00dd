"""Taking back what a flush did to the table, if the flush does not reach stable storage."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from composerd_fs.state.job import Row, Run

_COPY: dict[type, Callable[[Any], tuple[object, ...]]] = {kind: attrgetter(*kind.__slots__) for kind in (Run, Row)}


class Undo:
    """How to take back what a flush did to the table: copies of what was changed, and calls that reverse the rest."""

    def __init__(self) -> None:
        self._saved: dict[int, tuple[Row | Run, tuple[object, ...]]] = {}
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.before: Callable[[Row], None] | None = None
        """Told of each row before a flush changes it for the first time, if somebody looks at the table as it was."""
        self.replaying = True
        """Nothing is to be taken back: what is done has long been on stable storage."""

    def save(self, changed: Row | Run) -> None:
        """About to change a row or a run."""
        if not self.replaying and id(changed) not in self._saved:
            if self.before is not None:
                self.before(changed if isinstance(changed, Row) else changed.row)
            self._saved[id(changed)] = (changed, _COPY[type(changed)](changed))

    def call(self, reverse: Callable[..., Any], *args: Any) -> None:
        """How to reverse what is about to be done."""
        if not self.replaying:
            self._calls.append((reverse, args))

    def clear(self) -> None:
        """The flush is on stable storage."""
        self._saved.clear()
        self._calls.clear()

    def roll_back(self) -> list[Row]:
        """Take everything back; the rows that have changed, to be put into the indexes again."""
        rows: list[Row] = []
        for changed, values in self._saved.values():
            for name, value in zip(changed.__slots__, values, strict=True):
                setattr(changed, name, value)
            if isinstance(changed, Row):
                rows.append(changed)
        for reverse, args in reversed(self._calls):
            reverse(*args)
        self.clear()
        return rows
