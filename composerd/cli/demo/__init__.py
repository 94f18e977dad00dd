"""`composerd demo`: runs a server, workers and a few jobs in a scratch directory, to show how they work together."""

from composerd.cli.demo.show import demo

__all__ = ["demo"]
