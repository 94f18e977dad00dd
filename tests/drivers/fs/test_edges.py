"""Tests of the set of dependents against a sorted list."""

import random

from composerd_fs.state.edges import Dependents


def test_like_a_sorted_list() -> None:
    """However sequences are added and removed, the set shows what is left of them in order, from any one on."""
    chosen = random.Random(5)
    expected: set[int] = set()
    dependents = Dependents()
    for step in range(8000):
        if chosen.random() < 0.7:
            sequence = step if chosen.random() < 0.9 else chosen.randrange(step + 1)
            expected.add(sequence)
            dependents.add(sequence)
        else:
            sequence = chosen.randrange(step + 1)
            expected.discard(sequence)
            dependents.discard(sequence)
    assert list(dependents) == sorted(expected)
    assert len(dependents) == len(expected)
    for sequence in (-1, 0, 1, 1023, 1024, 4000, 7999, 8000, 10_000, *chosen.sample(range(8000), 200)):
        assert list(dependents.since(sequence)) == [one for one in sorted(expected) if one >= sequence]
        assert dependents.last_before(sequence) == max((one for one in expected if one < sequence), default=None)


def test_the_last_one_leaves_it_empty() -> None:
    """A set from which everything was removed is like a new one."""
    dependents = Dependents([3])
    dependents.discard(3)
    assert (list(dependents), len(dependents), dependents.last_before(9)) == ([], 0, None)
    dependents.discard(3)
    dependents.add(2)
    assert list(dependents.since(0)) == [2]
