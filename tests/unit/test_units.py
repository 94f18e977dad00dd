"""Parsing and formatting of durations and sizes."""

import pytest

from composerd_protocol.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("20s", 20), ("2m", 120), ("1h", 3600), ("14d", 14 * 86400), ("0", 0), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a number and a unit; zero needs no unit."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "20", "s", "-1s", "1 s", "1w", "1e3s", "\u0661s", "1s\n", "9" * 400 + "s"])
def test_invalid_durations(text: str) -> None:
    """An invalid duration is refused with a message that says how to write one."""
    with pytest.raises(ValueError, match="is not a duration: write a number"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["14d", "1h", "90s", "300ms", "1500ms", "2m"])
def test_formatted_durations(text: str) -> None:
    """A formatted duration can be parsed to the same value."""
    assert parse_duration(format_duration(parse_duration(text))) == pytest.approx(parse_duration(text))


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("5", 5), ("5B", 5), ("1kB", 1000), ("32MiB", 32 << 20), ("64GiB", 64 << 30), ("1.5KiB", 1536)],
)
def test_sizes(text: str, size: int) -> None:
    """Sizes are in bytes, or in units of 1,000 or 1,024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1 MiB", "1mib", "MiB"])
def test_invalid_sizes(text: str) -> None:
    """An invalid size is refused."""
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_formatted_sizes() -> None:
    """Sizes are formatted in the largest fitting unit."""
    assert [format_size(size) for size in (0, 1023, 1024, 1536, 32 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 KiB",
        "32 MiB",
        "3.0 TiB",
    ]
