"""Exceptions and the predefined errors that they map to."""

import pytest

from composerd import errors
from composerd.http.errors import UNSPECIFIED, ErrorTable


class OfADriver(errors.Unavailable):
    """A subclass of one of our errors, as a driver may raise it."""


@pytest.mark.parametrize("table", [ErrorTable.worker("/w"), ErrorTable.composer("/c")])
def test_a_drivers_own_kind(table: ErrorTable) -> None:
    """A driver's own subclass of an error maps to the entry of its base class."""
    entry = table.entry_for(OfADriver("gone"))
    assert (entry.id, entry.status) == (28, 503)


@pytest.mark.parametrize("table", [ErrorTable.worker("/w"), ErrorTable.composer("/c")])
def test_an_unknown_outcome(table: ErrorTable) -> None:
    """An unknown outcome has an error of its own, and no error of a table invites to a blind repetition."""
    entry = table.entry_for(errors.OutcomeUnknown())
    assert (entry.id, entry.status) == (40, 504)
    assert "Retry-After" not in table.response(entry, "id").headers
    assert "Retry-After" not in table.response(table.entry_for(errors.Unavailable()), "id").headers


def test_of_the_other_api() -> None:
    """An exception that only the other API has an entry for maps to the unspecified error."""
    assert ErrorTable.worker("/w").entry_for(errors.JobEnded()).id == UNSPECIFIED
