"""The bundle that these tests share."""

from tests.bundles import table_bundle

__all__ = ["table_bundle"]
