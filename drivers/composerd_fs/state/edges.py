"""The dependents of a job: their sequences in ascending order, found and changed quickly however many there are."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain

_PART = 1024


class Dependents:
    """A sorted set of sequences, in parts of limited length.

    Sequences grow, so that nearly every addition is at the end.
    """

    __slots__ = ("_parts", "_size")

    def __init__(self, sequences: Iterable[int] = ()) -> None:
        """Begin with sequences in ascending order."""
        every = list(sequences)
        self._parts = [every[begin : begin + _PART] for begin in range(0, len(every), _PART)]
        self._size = len(every)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._parts)

    def add(self, sequence: int) -> None:
        """Add a sequence."""
        parts = self._parts
        if not parts or sequence > parts[-1][-1]:
            if parts and len(parts[-1]) < _PART:
                parts[-1].append(sequence)
            else:
                parts.append([sequence])
        else:
            part = parts[self._part(sequence)]
            at = bisect_left(part, sequence)
            if part[at] == sequence:
                return
            part.insert(at, sequence)
        self._size += 1

    def discard(self, sequence: int) -> None:
        """Remove a sequence, if it is there."""
        number = self._part(sequence)
        if number == len(self._parts):
            return
        part = self._parts[number]
        at = bisect_left(part, sequence)
        if part[at] != sequence:
            return
        del part[at]
        self._size -= 1
        if not part:
            del self._parts[number]

    def since(self, sequence: int) -> Iterator[int]:
        """Iterate over the sequences from this one on."""
        for number in range(self._part(sequence), len(self._parts)):
            part = self._parts[number]
            yield from part[bisect_left(part, sequence) :]

    def last_before(self, sequence: int) -> int | None:
        """Return the highest sequence below this one, or None."""
        number = self._part(sequence)
        at = bisect_left(self._parts[number], sequence) if number < len(self._parts) else 0
        if at:
            return self._parts[number][at - 1]
        return self._parts[number - 1][-1] if number else None

    def _part(self, sequence: int) -> int:
        """Return the number of the first part that has sequences from this one on; the number of parts if none has."""
        return bisect_left(self._parts, sequence, key=_last)


def _last(part: list[int]) -> int:
    return part[-1]
