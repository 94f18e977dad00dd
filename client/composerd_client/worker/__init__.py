"""Workers: `Worker` runs handlers, and `Command` is a handler that runs a command in a scratch directory."""

from composerd_client.worker.attempt import Handler
from composerd_client.worker.health import HealthCheck
from composerd_client.worker.worker import Worker

__all__ = ["Handler", "HealthCheck", "Worker"]
