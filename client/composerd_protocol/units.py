"""Durations, sizes and whole numbers as people write them: `300ms`, `20s`, `14d`; `64KiB`, `32MiB`, `64GiB`; `12`."""

import math
import re
from collections.abc import Callable
from datetime import timedelta

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_BYTES = {
    "": 1,
    "B": 1,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}

_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z]*)", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `300ms` or `14d`; `0` needs no unit.

    Raises `ValueError` with a message that says what is wrong.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or (match[2] not in _SECONDS and text != "0"):
        raise ValueError(f"{text[:40]!r} is not a duration: write a number and ms, s, m, h or d, for example 20s")
    return float(match[1]) * _SECONDS.get(match[2], 1.0)


def format_duration(seconds: float) -> str:
    """Format seconds in the largest unit that gives a whole number, such as `90s` or `2m`."""
    if seconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        if seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f}ms" if milliseconds == round(milliseconds) else f"{seconds:g}s"


def in_seconds(name: str, time: float | timedelta) -> float:
    """Return a time that a program may give as a number of seconds, or as a `timedelta`. `name` is for errors.

    Raises `TypeError` for anything else, such as text, and `ValueError` for NaN.
    """
    if isinstance(time, timedelta):
        return time.total_seconds()
    if isinstance(time, bool) or not isinstance(time, int | float):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, and not {type(time).__name__}")
    if math.isnan(time):
        raise ValueError(f"{name} must be a number of seconds, and is {time}")
    return time


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `32MiB`; a number without a unit is in bytes.

    Raises `ValueError` with a message that says what is wrong.
    """
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"{text[:40]!r} is not a size: write a number and KiB, MiB or GiB, for example 32MiB")
    return int(float(match[1]) * _BYTES[match[2]])


def format_size(size: int) -> str:
    """Format bytes in the largest unit in which the number is at least 1, such as `1.5 MiB`."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount == int(amount) else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"{text[:40]!r} is not a number from {least} to {most}")
        return int(text)

    return parse
