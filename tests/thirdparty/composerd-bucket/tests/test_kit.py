import pytest
from composerd_bucket import BucketStore

from composerd.testing.kit import ArtifactStoreKit


class TestBucket(ArtifactStoreKit):
    @pytest.fixture
    def store(self, make_store):
        return make_store()

    @pytest.fixture
    def make_store(self, tmp_path):
        return lambda: BucketStore.from_url(f"bucket:{tmp_path}/artifacts.db")
