"""For tests of what talks to composerd: a live server on a free port, and workers that play a script. `plugin` has the pytest fixture."""

from composerd.testing.server import LiveServer
from composerd.testing.worker import ScriptedWorker

__all__ = ["LiveServer", "ScriptedWorker"]
