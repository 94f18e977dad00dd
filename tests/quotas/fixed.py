"""Limits that come from no file."""

from composerd.quotas import QuotaTable, parse


class Fixed:
    """The limits that a text has."""

    def __init__(self, text: str) -> None:
        self.value: QuotaTable = parse(text.encode())
        self.problem: str | None = None
