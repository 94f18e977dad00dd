"""Finds the artifact store that a setting names: a directory, or a store that a distribution adds for a URL scheme."""

from composerd.artifacts.contract import CONTRACT_VERSION, ArtifactStore
from composerd.artifacts.directory import DirectoryStore
from composerd.plugins import Plugins, scheme_of

STORES = Plugins(
    ArtifactStore,
    group="composerd.artifacts",
    contract=CONTRACT_VERSION,
    url_noun="artifact",
    plugin_noun="artifact store",
)


def open_store(directory_or_url: str) -> ArtifactStore:
    """Create the store that a directory or a URL names, without opening it.

    Text that begins with a scheme is a URL, so a relative directory named `a:b` has to be written `./a:b`. Raises
    `StorageURLError`.
    """
    if scheme_of(directory_or_url) is None:
        return DirectoryStore(directory_or_url)
    return STORES.open(directory_or_url)
