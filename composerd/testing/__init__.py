"""For tests of what talks to composerd or stores for it: a live server, workers that play a script, and `kit`, which drivers must pass.

Loaded when it is used: pytest imports this package wherever composerd is installed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composerd.testing.server import LiveServer
    from composerd.testing.worker import ScriptedWorker

__all__ = ["LiveServer", "ScriptedWorker"]


def __getattr__(name: str) -> object:
    """Import what is asked for."""
    if name == "LiveServer":
        from composerd.testing.server import LiveServer  # noqa: PLC0415  # loads aiohttp

        return LiveServer
    if name == "ScriptedWorker":
        from composerd.testing.worker import ScriptedWorker  # noqa: PLC0415

        return ScriptedWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
