"""The built-in storage drivers: `fs`, one directory on one machine, and `memory`, the same table without a journal."""

from composerd_fs.driver import FsDriver, MemoryDriver

__all__ = ["FsDriver", "MemoryDriver"]
