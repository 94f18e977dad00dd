"""The table of permissions, which has every operation."""

from composerd.http import app  # noqa: F401  # imports every endpoint
from composerd.http.openapi import OPERATIONS
from composerd.identity.permissions import PERMISSIONS


def test_every_operation_is_in_the_table() -> None:
    """An operation that is forgotten in the table would need no credentials."""
    assert set(OPERATIONS.values()) == set(PERMISSIONS)
