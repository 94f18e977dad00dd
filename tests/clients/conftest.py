"""Servers and relays for workers in other languages."""

from ..live.conftest import COMPOSER, JSON, WORKER, Serve, Server, no_process_left, send, serve, until_waiting

__all__ = ["COMPOSER", "JSON", "WORKER", "Serve", "Server", "no_process_left", "send", "serve", "until_waiting"]
