"""Undo of the changes of a flush that the disk has refused."""

from collections.abc import Callable
from typing import Any, TypeAlias

Step: TypeAlias = tuple[Any, ...]
"""A function that reverses a change, and its arguments."""


class Undo:
    """The steps that take back the changes of the current flush."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self.add: Callable[[Step], None] = self._steps.append
        """Adds a step that reverses what is about to be changed."""
        self.clear: Callable[[], None] = self._steps.clear
        """Forgets the steps, because the flush is on stable storage."""

    def roll_back(self) -> None:
        """Take the steps, the latest first."""
        while self._steps:
            reverse, *args = self._steps.pop()
            reverse(*args)
