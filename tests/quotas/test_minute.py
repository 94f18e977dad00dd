"""The limit within a minute, against a list of everything that has happened."""

import random

from composerd.quotas.minute import Minute


def test_never_more_than_the_limit_in_any_minute() -> None:
    """However requests come, no 60 seconds have more than the limit, and the time that is told is enough."""
    chance = random.Random(7)
    minute, now, limit = Minute(), 1000.0, 5
    happened: list[float] = []
    for _ in range(3000):
        now += chance.choice([0.0, 0.01, 0.7, 3.0, 20.0])
        if minute.look(now) < limit:
            assert minute.room_in(now, limit) == 0
            minute.add(now)
            happened.append(now)
            assert sum(one > now - 60 for one in happened) <= limit
        else:
            until = minute.room_in(now, limit)
            assert 0 < until <= 61
            now += until
            assert minute.look(now) < limit


def test_room_after_what_is_too_much_has_passed() -> None:
    """After the limit was lowered, there is room once so much has passed that less than the new limit is left."""
    minute = Minute()
    for second in (100, 110, 120):
        minute.add(second)
    assert minute.room_in(125, 1) == 181 - 125
    assert minute.room_in(125, 3) == 161 - 125
    assert minute.room_in(125, 4) == 0
