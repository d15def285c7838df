"""The verdicts on what a repository says: bytes in, an error or a document out."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from edgewright.package import Bundle
from edgewright_runtime.bundle.line import Line
from edgewright_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.bundle.release import (
    Blob,
    ChannelIndex,
    ReleaseDocument,
    check_manifest,
    check_release,
    in_cohort,
    judge_index,
)
from edgewright_runtime.errors import IntegrityError, RollbackError

LINE = Line("churn", "edge_device", "stable").id
DIGEST = "0" * 64


def index(**fields: Any) -> ChannelIndex:
    return replace(ChannelIndex(LINE, 3, 100, DIGEST), **fields)


def release(**fields: Any) -> ReleaseDocument:
    document = ReleaseDocument(
        model="churn",
        platform="edge_device",
        channel="stable",
        version=3,
        previous_version=None,
        content_of=None,
        cohort_percent=100,
        bundle_digest=DIGEST,
        manifest=Blob("manifest.json", 2, hashlib.sha256(b"{}").hexdigest(), DIGEST, 2),
        files=(),
        monitoring=Monitoring(),
    )
    return replace(document, **fields)


def pointing_to(content: bytes, **fields: Any) -> ChannelIndex:
    return index(release_bytes=len(content), release_sha256=hashlib.sha256(content).hexdigest(), **fields)


def with_schema(content: bytes, version: int) -> bytes:
    document = json.loads(content)
    document["signed"]["schema_version"] = version
    return json.dumps(document).encode()


def test_version_that_was_here_before_is_offered_again_and_an_older_one_refused() -> None:
    assert judge_index(index().to_json(), LINE, 0) == index()
    assert judge_index(index().to_json(), LINE, 3) == index()
    with pytest.raises(RollbackError, match="offers version 3, this device has had 4"):
        judge_index(index().to_json(), LINE, 4)


def test_index_of_another_line_is_refused() -> None:
    with pytest.raises(IntegrityError, match="asked for was 'other'"):
        judge_index(index().to_json(), "other", 0)


def test_versions_begin_at_one() -> None:
    assert judge_index(index(version=1).to_json(), LINE, 0).version == 1
    with pytest.raises(IntegrityError, match="version"):
        judge_index(index(version=0).to_json(), LINE, 0)


def test_unknown_key_in_an_index_is_refused() -> None:
    document = json.loads(index().to_json())
    document["signed"]["more"] = 1
    with pytest.raises(IntegrityError, match="more"):
        judge_index(json.dumps(document).encode(), LINE, 0)


def test_unknown_key_beside_the_signed_part_is_refused() -> None:
    document = json.loads(index().to_json())
    with pytest.raises(IntegrityError, match="more"):
        judge_index(json.dumps({**document, "more": 1}).encode(), LINE, 0)


def test_document_without_a_list_of_signatures_is_refused() -> None:
    document = json.loads(index().to_json())
    with pytest.raises(IntegrityError, match="signatures"):
        judge_index(json.dumps({**document, "signatures": 1}).encode(), LINE, 0)


@pytest.mark.parametrize(("count", "is_taken"), [(100, True), (101, False)])
def test_a_hundred_signatures_are_room_enough(count: int, is_taken: bool) -> None:
    content = json.dumps({**json.loads(index().to_json()), "signatures": [{}] * count}).encode()
    if is_taken:
        assert judge_index(content, LINE, 0) == index()
    else:
        with pytest.raises(IntegrityError, match="signatures"):
            judge_index(content, LINE, 0)


def test_document_of_another_kind_is_refused() -> None:
    with pytest.raises(IntegrityError, match="type"):
        judge_index(release().to_json(), LINE, 0)


@pytest.mark.parametrize("version", [0, 3])
def test_schema_of_another_version_is_refused(version: int) -> None:
    with pytest.raises(IntegrityError, match=f"schema version {version}, this runtime reads 1 to 2"):
        judge_index(with_schema(index().to_json(), version), LINE, 0)


def test_index_of_the_first_schema_names_a_channel() -> None:
    document = json.loads(with_schema(index().to_json(), 1))
    document["signed"]["channel"] = document["signed"].pop("line")
    assert judge_index(json.dumps(document).encode(), LINE, 0) == index()


def test_release_is_the_bytes_that_the_index_announced() -> None:
    content = release().to_json()
    announced = pointing_to(content)
    assert check_release(content, announced) == release()
    for other in (replace(announced, release_bytes=1), replace(announced, release_sha256=DIGEST)):
        with pytest.raises(IntegrityError, match="not the bytes"):
            check_release(content, other)


@pytest.mark.parametrize("fields", [{"version": 2}, {"line": "other"}])
def test_release_of_another_line_or_version_is_refused(fields: dict[str, Any]) -> None:
    content = release().to_json()
    with pytest.raises(IntegrityError, match="stands where"):
        check_release(content, pointing_to(content, **fields))


def test_manifest_with_another_digest_is_refused() -> None:
    with pytest.raises(IntegrityError, match="its SHA-256 is not the one"):
        check_manifest(b"{ }", release())


@pytest.mark.parametrize("fields", [{"model": "other"}, {"platform": "android"}])
def test_manifest_of_another_model_or_platform_is_refused(table_bundle: Bundle, fields: dict[str, str]) -> None:
    content = (table_bundle.artifact.path / MANIFEST_NAME).read_bytes()
    manifest = Manifest.from_json(content)
    digest = hashlib.sha256(content).hexdigest()
    document = release(
        model=manifest.name,
        platform=manifest.platform,
        manifest=Blob(MANIFEST_NAME, len(content), digest, DIGEST, 1),
        files=tuple(Blob(entry.path, entry.bytes, entry.sha256, DIGEST, 1) for entry in manifest.files),
    )
    assert check_manifest(content, document) == manifest
    with pytest.raises(IntegrityError, match="another model"):
        check_manifest(content, replace(document, **fields))


def test_cohort_is_nobody_at_0_everybody_at_100_and_its_share_between() -> None:
    devices = [f"device {n}" for n in range(2000)]
    counts = [sum(in_cohort(d, release(cohort_percent=p)) for d in devices) for p in (0, 1, 20, 99, 100)]
    assert counts[0] == 0
    assert counts[4] == 2000
    assert counts[1:4] == [pytest.approx(2000 * p, abs=60) for p in (0.01, 0.2, 0.99)]
    assert counts[1] > 0
    assert counts[3] < 2000


def test_who_is_in_a_cohort_stays_so() -> None:
    """Devices in the field draw with the code they have: the draw is a part of the format."""
    chosen = [n for n in range(20) if in_cohort(f"device {n}", release(cohort_percent=50))]
    drawn = [hashlib.sha256(f"{LINE}/3/device {n}".encode()).digest()[:8] for n in range(20)]
    assert chosen == [n for n in range(20) if int.from_bytes(drawn[n], "big") % 100 < 50]
