"""Tests of how file descriptors are shared out."""

import resource

import pytest

from composerd.server.descriptors import OWN, Descriptors, share_out
from composerd.settings import SettingsError


@pytest.mark.parametrize(
    ("limit", "wanted", "expected"),
    [
        (resource.RLIM_INFINITY, 20_000, Descriptors(20_000, 512)),
        (20_000 + 512 + OWN, 20_000, Descriptors(20_000, 512)),
        (20_000, 20_000, Descriptors(19_392, 512, 20_000)),
        (1024, 20_000, Descriptors(812, 116, 1024)),
        (128, 20_000, Descriptors(28, 4, 128)),
        (128, 10, Descriptors(10, 10)),
    ],
)
def test_sharing_out(monkeypatch: pytest.MonkeyPatch, limit: int, wanted: int, expected: Descriptors) -> None:
    """All that may be open at the same time, and what the server itself needs, fits into the limit."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (min(limit, 64) if limit > 0 else limit, limit))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: _refuse(limits, limit))
    assert share_out(wanted) == expected


def test_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few descriptors a server does not start."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (127, 127))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: _refuse(limits, 127))
    with pytest.raises(SettingsError, match="at least 128"):
        share_out(100)


def _refuse(limits: tuple[int, int], hard: int) -> None:
    """Refuse to raise the hard limit, as for every user but root."""
    if limits[1] > hard:
        raise ValueError("not allowed to raise maximum limit")
