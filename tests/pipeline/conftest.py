"""What these tests share: a bundle, a store of each test's own, a stand-in for coremltools."""

from tests.bundles import table_bundle
from tests.validate.conftest import core_ml_standin, own_store, weights

__all__ = ["core_ml_standin", "own_store", "table_bundle", "weights"]
