"""The index of jobs by channel, in which a page of a channel's jobs looks at no others."""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

_LARGEST_BLOCK = 1024
"""Number of sequences at which a block is split: a change in its middle moves 8 KiB at most."""


class ChannelIndex:
    """Sequences of the jobs of each channel but the empty one, in order, as plain integers because there are many.

    The sequences of a channel are kept in blocks, so that a job in the middle is quickly added or removed. No block is
    empty. The jobs of the empty channel are not indexed, so a storage without tenants pays nothing.
    """

    def __init__(self) -> None:
        self._channels: dict[str, list[array[int]]] = {}

    def add(self, channel: str, sequence: int) -> None:
        """Add a job. That is fastest for the latest job of its channel."""
        if not channel:
            return
        blocks = self._channels.get(channel)
        if blocks is None:
            self._channels[channel] = [array("q", (sequence,))]
            return
        last = blocks[-1]
        if sequence > last[-1]:
            if len(last) < _LARGEST_BLOCK:
                last.append(sequence)
            else:
                blocks.append(array("q", (sequence,)))
            return
        at = max(bisect_right(blocks, sequence, key=_first_of) - 1, 0)
        block = blocks[at]
        insort(block, sequence)
        if len(block) > _LARGEST_BLOCK:
            half = len(block) // 2
            blocks.insert(at + 1, block[half:])
            del block[half:]

    def remove(self, channel: str, sequence: int) -> None:
        """Remove a job that was added."""
        if not channel:
            return
        blocks = self._channels[channel]
        at = bisect_right(blocks, sequence, key=_first_of) - 1
        block = blocks[at]
        del block[bisect_left(block, sequence)]
        if block:
            return
        del blocks[at]
        if not blocks:
            del self._channels[channel]
            if not self._channels:
                self._channels.clear()  # gives back the memory of the dictionary too

    def before(self, channel: str, sequence: int) -> Iterator[int]:
        """Iterate over the sequences of a channel's jobs that are lower than a sequence, the highest first."""
        blocks = self._channels.get(channel, [])
        for number in range(bisect_left(blocks, sequence, key=_first_of) - 1, -1, -1):
            block = blocks[number]
            for at in range(bisect_left(block, sequence) - 1, -1, -1):
                yield block[at]


def _first_of(block: "array[int]") -> int:
    return block[0]
