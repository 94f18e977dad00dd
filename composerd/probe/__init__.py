"""Tries a server from outside, through the proxies in between, and says what to change there."""

from composerd.probe.findings import Finding, Outcome
from composerd.probe.run import Options, probe
from composerd.probe.target import Target

__all__ = ["Finding", "Options", "Outcome", "Target", "probe"]
