"""Releases with a bundle of a few bytes, for tests of what a device keeps: their models are never opened."""

import hashlib

from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.bundle.release import Blob, ReleaseDocument
from edgewright_runtime.update.installation import Installation

__all__ = ["BUNDLE_BYTES", "LINE", "keep", "release_of"]

LINE = "churn.edge_device.stable"
BUNDLE_BYTES = 100


def release_of(version: int, content: str = "") -> ReleaseDocument:
    """A version of `LINE`; those of the same ``content`` share a bundle."""
    digest = hashlib.sha256((content or str(version)).encode()).hexdigest()
    return ReleaseDocument(
        model="churn",
        platform="edge_device",
        channel="stable",
        version=version,
        previous_version=None,
        content_of=None,
        cohort_percent=100,
        bundle_digest=digest,
        manifest=Blob("manifest.json", 2, digest, digest, 2),
        files=(),
        monitoring=Monitoring(),
    )


def keep(installation: Installation, release: ReleaseDocument, *, beside: bool = False) -> str:
    """Install it with its bundle; its name."""
    folder = installation.bundle_folder(release.manifest.sha256)
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(b"\0" * BUNDLE_BYTES)
    place = installation.keep_beside if beside else installation.activate
    return place(release, release.to_json()).name
