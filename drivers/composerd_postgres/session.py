"""`Session`: what all operations of one driver share."""

from typing import Any
from uuid import uuid4

from composerd.models import News
from composerd_postgres.db.pool import Connections
from composerd_postgres.db.url import Options
from composerd_postgres.news.changes import Changes, channel_of, notices
from composerd_postgres.news.claim_hints import ClaimHints
from composerd_postgres.sql.statements import Statements, encode


class Session:
    """The options, statements, connections, claim hints and clock of one driver."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.statements = Statements(options.schema)
        self.connections = Connections(options)
        self.hints = ClaimHints()
        self.origin = uuid4().hex[:12]
        """The name of this driver in notifications."""
        self.own_shift = 0.0
        """Seconds by which this driver's clock is ahead of the other servers'; not 0 in tests only."""
        self._ahead = 0.0
        self.shift = "0 seconds"
        """Seconds by which this driver's clock is ahead of the database's, for statements that need the time."""

    def shift_clock(self, seconds: float) -> None:
        """Let this driver's clock run further ahead."""
        self.own_shift += seconds
        self.follow_clock(self._ahead)

    def follow_clock(self, ahead: float) -> None:
        """Set how far the clocks of all servers are ahead of the database's, in seconds."""
        self._ahead = ahead
        self.shift = f"{self.own_shift + ahead} seconds"

    def notify(self, names: list[str], parameters: dict[str, Any], changes: Changes) -> None:
        """Add the statement that announces changes to the other servers, if there is something to announce."""
        texts = notices(self.origin, changes)
        if texts:
            names.append("notify")
            parameters["channel"] = channel_of(self.options.schema)
            parameters["notices"] = encode(texts)

    def announce(self, changes: Changes) -> News:
        """Update the claim hints by the changes of a call, and return them as news for its caller."""
        self.hints.became_ready(changes.first)
        return changes.news()
