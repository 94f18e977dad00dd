"""The driver's clock: that of `composerd.driver`."""

from composerd.driver.clock import MICRO, Clock, from_time, microseconds, seconds, to_time

__all__ = ["MICRO", "Clock", "from_time", "microseconds", "seconds", "to_time"]
