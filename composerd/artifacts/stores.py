"""Which artifact store a setting means: a directory, or the URL of a store of the entry point group `composerd.artifacts`."""

from composerd.artifacts.contract import CONTRACT_VERSION, ArtifactStore
from composerd.artifacts.directory import DirectoryStore
from composerd.plugins import Plugins, scheme_of

STORES = Plugins(
    ArtifactStore, group="composerd.artifacts", contract=CONTRACT_VERSION, noun="artifact", what="artifact store"
)


def open_store(where: str) -> ArtifactStore:
    """Make the store, unopened. What begins with a scheme is a URL, all else a directory: write `./a:b` for one named `a:b`.

    Raises `StorageURLError`.
    """
    return DirectoryStore(where) if scheme_of(where) is None else STORES.open(where)
