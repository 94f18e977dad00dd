"""Times as both APIs write them: RFC 3339 in UTC with microseconds."""

from datetime import datetime


def rfc3339(time: datetime) -> str:
    """Return a time in UTC as text, such as `2026-01-31T12:00:00.000000Z`."""
    return time.isoformat(timespec="microseconds")[:26] + "Z"
