"""The time by which the present call of the driver has to end, whatever it does and waits for."""

from contextvars import ContextVar

ends_at: ContextVar[float] = ContextVar("ends_at", default=float("inf"))
"""The time, by the loop's clock. Each call of the driver runs in a task of its own, and sets it there."""
