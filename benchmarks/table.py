"""A table of figures and their targets, printed row by row."""

from collections.abc import Sequence
from statistics import quantiles

WIDTH = 66


class Table:
    """Prints a heading, then a row for each figure."""

    def __init__(self, *heading: str) -> None:
        for line in heading:
            print(line)
        print(f"{'':{WIDTH}}{'reached':>14}{'wanted':>12}", flush=True)

    def figure(self, what: str, reached: float, unit: str = "") -> None:
        """Print a figure without a target."""
        print(f"{what:{WIDTH}}{_number(reached, unit):>14}{'-':>12}", flush=True)

    def at_least(self, bound: float, what: str, reached: float, unit: str = "") -> None:
        """Print a figure with a lower bound."""
        self._row(what, _number(reached, unit), f">= {bound:g}", met=reached >= bound)

    def at_most(self, bound: float, what: str, reached: float, unit: str = "") -> None:
        """Print a figure with an upper bound."""
        self._row(what, _number(reached, unit), f"<= {bound:g}", met=reached <= bound)

    @staticmethod
    def _row(what: str, reached: str, wanted: str, *, met: bool) -> None:
        print(f"{what:{WIDTH}}{reached:>14}{wanted:>12}   {'' if met else 'not met'}".rstrip(), flush=True)


def p99(samples: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return quantiles(samples, n=100)[98]


def _number(value: float, unit: str) -> str:
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2}f} {unit}".rstrip()
