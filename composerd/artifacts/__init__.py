"""Artifacts, the files that attempts upload: the contract of artifact stores, the built-in store, and all uses of them.

`contract` is for authors of a store. `stores` finds the store that a setting names, and `directory` is the built-in
one. `files` writes and reads files in any store, and `sweeper` removes those that are no longer needed.
"""

from composerd.artifacts.contract import CONTRACT_VERSION, ArtifactStore, Writer
from composerd.free_space import DiskSpace

__all__ = ["CONTRACT_VERSION", "ArtifactStore", "DiskSpace", "Writer"]
