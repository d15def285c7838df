"""The bundles that these tests share."""

from tests.bundles import image_bundle, newer_bundle, table_bundle

__all__ = ["image_bundle", "newer_bundle", "table_bundle"]
