"""For tests of code that uses composerd: a live server, scripted workers, and `kit`, the conformance tests for drivers.

pytest imports this package wherever composerd is installed, so its modules are imported only when they are used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composerd.testing.server import LiveServer
    from composerd.testing.worker import ScriptedWorker

__all__ = ["LiveServer", "ScriptedWorker"]


def __getattr__(name: str) -> object:
    """Import a name when it is first used."""
    if name == "LiveServer":
        from composerd.testing.server import LiveServer  # noqa: PLC0415  # imports aiohttp

        return LiveServer
    if name == "ScriptedWorker":
        from composerd.testing.worker import ScriptedWorker  # noqa: PLC0415

        return ScriptedWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
