"""A bounded resource that clients share: each may hold at most half of what the others leave free.

However many greedy clients there are, and in whatever order they come, the next one finds room: one alone holds at most
a half, two a third each, and so on. Nothing that was taken has to be taken back.
"""

from composerd.errors import Unavailable


class Shares:
    """Counts how much of a resource each client holds.

    A client is any text; `composerd.http.clients` makes it.
    """

    def __init__(self, what: str, limit: int, least: int = 1) -> None:
        """Share `limit` units of `what`, a noun in the plural. A client may hold `least`, if so much is free."""
        self.what = what
        self.limit = limit
        self.used = 0
        self._least = least
        self._held: dict[str, int] = {}

    def of(self, client: str) -> int:
        """Return how much a client holds."""
        return self._held.get(client, 0)

    def room(self, client: str) -> int:
        """Return how much more a client may take now."""
        held = self._held.get(client, 0)
        left = self.limit - self.used + held
        return max(min(max(left // 2, self._least), left) - held, 0)

    def take(self, client: str, amount: int = 1) -> None:
        """Give a client more; `free` ends that. Raises `Unavailable` if it would hold more than its share."""
        if amount > self.room(client):
            raise Unavailable(f"too many {self.what}", limit=self.limit)
        self.used += amount
        self._held[client] = self._held.get(client, 0) + amount

    def exchange(self, client: str, old: int, new: int) -> None:
        """Let a client hold `new` instead of `old`. Raises `Unavailable` as `take` does if that is more."""
        if new > old:
            self.take(client, new - old)
        elif old > new:
            self.free(client, old - new)

    def free(self, client: str, amount: int = 1) -> None:
        """Take back what a client no longer needs."""
        self.used -= amount
        left = self._held[client] - amount
        if left:
            self._held[client] = left
        else:
            del self._held[client]
