"""The files that attempts upload: the contract of the stores that keep them, and what composerd does with any of these.

`contract` is what a store's author reads, `stores` finds the one that a setting means, `directory` is the one that is
built in; `files` and `sweeper` are the use of them.
"""

from composerd.artifacts.contract import CONTRACT_VERSION, ArtifactStore, Writer

__all__ = ["CONTRACT_VERSION", "ArtifactStore", "Writer"]
