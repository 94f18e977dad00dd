"""`composerd demo`: a server, workers and a graph of real jobs on a scratch directory, to see everything at once."""

from composerd.cli.demo.show import demo

__all__ = ["demo"]
