"""The directory store keeps the contract of artifact stores."""

from collections.abc import Callable
from pathlib import Path

import pytest

from composerd.artifacts.directory import DirectoryStore
from composerd.artifacts.stores import open_store
from composerd.errors import StorageURLError
from composerd.testing.kit import ArtifactStoreKit


class TestDirectory(ArtifactStoreKit):
    @pytest.fixture
    def store(self, make_store: Callable[[], DirectoryStore]) -> DirectoryStore:
        return make_store()

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], DirectoryStore]:
        return lambda: DirectoryStore(tmp_path / "files")


def test_names_of_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is named by a path or a `file:` URL; a path that looks like a URL begins with `./`."""
    monkeypatch.chdir(tmp_path)
    roots = {
        "/srv/files": "/srv/files",
        "files": "files",
        "/srv/a:b": "/srv/a:b",
        "./a:b": "a:b",
        "file:/srv/a%20b": "/srv/a b",
        "FILE:///srv/files": "/srv/files",
        "file:files": str(tmp_path / "files"),
    }
    for text, root in roots.items():
        store = open_store(text)
        assert isinstance(store, DirectoryStore)
        assert store.root == Path(root)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:b", "no artifact store for 'a' is installed; installed: .*file"),
        ("file:", "names no directory"),
        ("file://host/srv", "names a host"),
        ("file:/srv?x=1", "takes no options"),
    ],
)
def test_invalid_names(text: str, problem: str) -> None:
    """The error says what is wrong with the URL."""
    with pytest.raises(StorageURLError, match=problem):
        open_store(text)
