"""Settings of the database with which it may lose what it has committed. No I/O."""

from typing import Any

SETTINGS = """
SELECT current_setting('server_encoding') AS encoding,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS standbys,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes
"""
"""The statement whose row `dangers` reads."""


def dangers(settings: Any) -> list[str]:
    """Return a sentence for each setting with which acknowledged jobs and results may be lost."""
    found: list[str] = []
    if settings.synchronous_commit == "off":
        found.append("synchronous_commit is off: jobs and results acknowledged just before a crash may be lost")
    if settings.synchronous_commit == "local" and settings.standbys:
        found.append("synchronous_commit is local: the synchronous standby may lack what was just acknowledged")
    if settings.fsync == "off":
        found.append("fsync is off: a crash of the database's machine may lose or damage all jobs")
    if settings.full_page_writes == "off":
        found.append("full_page_writes is off: a crash of the database's machine may damage jobs")
    return found


def durability(settings: Any) -> str:
    """Return in one sentence whether acknowledged jobs survive a crash, for people."""
    return "; ".join(dangers(settings)) or "whatever is acknowledged survives a crash"
