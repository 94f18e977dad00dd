"""The roles of identities. Commands import nothing else of identities to show them."""

import enum


class Role(enum.StrEnum):
    """A role decides which operations an identity may use; `composerd.identity.permissions` has the table."""

    __hash__ = str.__hash__  # the hash of an enum is a Python function, and each request looks its role up

    WORKER = "worker"
    """Uses the worker API."""
    SUBMITTER = "submitter"
    """Uses the composer API."""
    VIEWER = "viewer"
    """Reads what the composer API shows."""
    ADMIN = "admin"
    """Does everything, for every tenant."""
    MONITOR = "monitor"
    """Reads the metrics, and why the server is not ready."""
