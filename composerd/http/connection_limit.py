"""The limit of open connections."""

from collections.abc import Sized


class ConnectionLimit:
    """The number of connections that may be open, and the connections that are open.

    `RequestBoundary` refuses requests while there are more. `open` is empty until the server has started.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open: Sized = ()
