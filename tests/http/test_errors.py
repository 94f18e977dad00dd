"""Which error of the API's table an exception is shown as."""

import pytest

from composerd import errors
from composerd.http.errors import UNSPECIFIED, ErrorTable


class OfADriver(errors.Unavailable):
    """What a driver may raise: its own kind of one of ours."""


@pytest.mark.parametrize("table", [ErrorTable.worker("/w"), ErrorTable.composer("/c")])
def test_a_drivers_own_kind(table: ErrorTable) -> None:
    """It is shown as what it is a kind of."""
    entry = table.entry_for(OfADriver("gone"))
    assert (entry.id, entry.status) == (28, 503)


def test_of_the_other_api() -> None:
    """What only the other API has a row for is unspecified."""
    assert ErrorTable.worker("/w").entry_for(errors.JobEnded()).id == UNSPECIFIED
