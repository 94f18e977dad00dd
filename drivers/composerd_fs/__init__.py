"""The built-in storage drivers: `fs` keeps jobs in a directory of one machine, `memory` in memory only."""

from composerd_fs.driver import FsDriver
from composerd_fs.memory import MemoryDriver

__all__ = ["FsDriver", "MemoryDriver"]
