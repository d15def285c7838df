"""Packaging: a bundle with the model, its manifest, golden vectors, the report and integration code."""

from edgewright.package.bundle import REPORT_NAME, Bundle, BundleContent, build_bundle, read_bundle

__all__ = ["REPORT_NAME", "Bundle", "BundleContent", "build_bundle", "read_bundle"]
