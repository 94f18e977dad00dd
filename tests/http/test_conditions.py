"""The validators of a file that is downloaded."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from composerd.http.conditions import Validators


def test_the_time_of_the_last_change() -> None:
    """`Last-Modified` is in whole seconds and never in the future, even if the storage's clock is ahead."""
    past = Validators.of("ab", datetime(2026, 1, 31, 12, 30, 5, 999_999, UTC))
    assert past.headers == {"ETag": '"ab"', "Last-Modified": "Sat, 31 Jan 2026 12:30:05 GMT"}
    ahead = Validators.of("ab", datetime.now(UTC) + timedelta(hours=1))
    assert parsedate_to_datetime(ahead.headers["Last-Modified"]) <= datetime.now(UTC)
