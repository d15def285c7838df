import bz2
import hashlib
import json
import lzma
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgewright.package import Bundle
from edgewright.release import publish
from edgewright.release.patches import build_patch, build_patches, encoders, patch_kind, tensor_ranges
from edgewright_runtime.bundle.manifest import Column
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.bundle.release import parse_release
from edgewright_runtime.codec.patch import (
    MAX_PATCHED_BYTES,
    TENSOR_MAGIC,
    _from_difference,
    _unpacked,
    apply_patch,
    to_difference,
)
from edgewright_runtime.errors import BackendUnavailableError, IntegrityError
from edgewright_runtime.predict.predictor import Predictor
from edgewright_runtime.update.installation import Installation
from edgewright_runtime.update.updater import Outcome, Updater
from tests.bundles import COLUMNS
from tests.runtime.patchable import bundle, mlp


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(tmp_path_factory.mktemp("tuned"), tuned=1e-4)


def model_bytes(of: Bundle) -> bytes:
    return (of.artifact.path / "churn.onnx").read_bytes()


@given(
    st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int32"]).flatmap(
        lambda d: st.tuples(*[hnp.arrays(d, 7, elements=hnp.from_dtype(np.dtype(d)))] * 2)
    )
)
def test_differences_come_back_bit_for_bit(pair: tuple[np.ndarray, np.ndarray]) -> None:
    is_float = pair[0].dtype.kind == "f"
    old, new = (a.view(f"u{a.dtype.itemsize}") for a in pair)

    planes = to_difference(old, new, is_float=is_float)

    assert _from_difference(old, planes, is_float=is_float) == new.tobytes()


def test_small_changes_of_floats_are_small_differences() -> None:
    old = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    planes = np.frombuffer(
        to_difference(old.view(np.uint32), (old * (1 + 1e-6)).astype(np.float32).view(np.uint32), is_float=True),
        np.uint8,
    ).reshape(4, -1)

    assert not planes[1:].any(), "across zero and across exponents too"


@pytest.mark.parametrize("codec", ["tensor", "bsdiff", "zstd"])
def test_every_codec_gives_the_new_file(base: Bundle, tuned: Bundle, codec: str) -> None:
    old, new = model_bytes(base), model_bytes(tuned)

    patch = encoders()[codec]("churn.onnx", old, new)

    assert apply_patch(codec, old, patch, len(new)) == new


def test_tensor_codec_is_smallest_for_a_fine_tune(base: Bundle, tuned: Bundle) -> None:
    old, new = model_bytes(base), model_bytes(tuned)
    sizes = {codec: len(encoders()[codec]("churn.onnx", old, new)) for codec in ("tensor", "bsdiff", "zstd")}

    assert build_patch("churn.onnx", old, new).codec == "tensor"
    assert sizes["tensor"] == min(sizes.values())
    assert sizes["tensor"] < 0.8 * len(lzma.compress(new))


def test_tensors_of_a_litert_file_are_found(image_bundle: Bundle) -> None:
    content = (image_bundle.artifact.path / "digits_cnn.tflite").read_bytes()
    ranges = tensor_ranges("m.tflite", content)

    assert max(r.stop - r.start for r in ranges) == 144 * 3 * 4
    changed = bytearray(content)
    largest = max(ranges, key=lambda r: r.stop - r.start)
    values = np.frombuffer(content, np.float32, 144 * 3, largest.start) * np.float32(1.0001)
    changed[largest.start : largest.stop] = values.tobytes()
    patch = build_patch("m.tflite", content, bytes(changed), ["tensor"])
    assert apply_patch("tensor", content, patch.content, len(changed)) == bytes(changed)
    assert len(patch.content) < 0.6 * values.nbytes


@pytest.mark.parametrize(("options", "kind"), [({"tuned": 1e-3}, "weight_update"), ({"extra": True}, "layer_addition")])
def test_kind_says_what_happened_to_the_model(tmp_path: Path, base: Bundle, options: dict[str, Any], kind: str) -> None:
    mlp(tmp_path / "new.onnx", **options)

    assert patch_kind("churn.onnx", model_bytes(base), (tmp_path / "new.onnx").read_bytes()) == kind
    assert patch_kind("churn.onnx", None, None) == "hyperparameter_update"


def installed(root: Path, repository: Path) -> Outcome:
    return Updater(str(repository), "stable", root).update(ignore_cohort=True)


LATER_COLUMNS = (*COLUMNS[:2], Column("contract", "category", (("monthly", 0), ("yearly", 1), ("two years", 2))))


@pytest.mark.parametrize(
    ("kind", "options", "patched"),
    [
        ("weight_update", {"tuned": 1e-4}, True),
        ("layer_addition", {"extra": True}, True),
        ("hyperparameter_update", {"columns": LATER_COLUMNS}, False),
    ],
)
def test_device_patches_instead_of_downloading(
    tmp_path: Path, base: Bundle, kind: str, options: dict[str, Any], patched: bool
) -> None:
    repository, root = tmp_path / "r", tmp_path / "d"
    publish(base, str(repository), "stable")
    installed(root, repository)
    new = bundle(tmp_path / "new", **options)
    publish(new, str(repository), "stable")

    outcome = installed(root, repository)

    assert (outcome.status, outcome.patch_failures) == ("installed", ())
    assert ("churn.onnx" in outcome.patched) == patched
    assert outcome.downloaded_bytes < 0.9 * new.download_bytes
    assert (root / "current/bundle/churn.onnx").read_bytes() == model_bytes(new)
    assert (model_bytes(new) == model_bytes(base)) == (not patched)
    (patch,) = parse_release((repository / "releases/churn.edge_device.stable/2.json").read_bytes()).patches
    assert (patch.base, patch.kind) == (base.manifest_digest, kind)
    row = {"tenure": 0.5, "charges": -1.0, "contract": "yearly" if kind == "hyperparameter_update" else "One year"}
    there = Predictor(root / "current/bundle").predict(row)
    np.testing.assert_array_equal(there.scores, Predictor(new.artifact.path).predict(row).scores)


def test_model_that_gained_a_layer_has_it_on_the_device(tmp_path: Path, base: Bundle) -> None:
    repository, root = tmp_path / "r", tmp_path / "d"
    publish(base, str(repository), "stable")
    installed(root, repository)
    publish(bundle(tmp_path / "new", extra=True), str(repository), "stable")
    installed(root, repository)

    nodes = [onnx.load(path / "bundle/churn.onnx").graph.node for path in sorted((root / "releases").glob("churn*"))]

    assert [len(n) for n in nodes] == [4, 5]
    assert Installation(root).current().previous == "churn.edge_device.stable.1"


def test_zstd_patch_is_taken_only_where_the_device_can_read_it(
    tmp_path: Path, base: Bundle, tuned: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(base, str(tmp_path / "r"), "stable")
    for root in (tmp_path / "with", tmp_path / "without"):
        installed(root, tmp_path / "r")
    publish(tuned, str(tmp_path / "r"), "stable")
    (patch,) = parse_release((tmp_path / "r/releases/churn.edge_device.stable/2.json").read_bytes()).patches
    sizes = {delta.codec: delta.blob_bytes for delta in patch.files if delta.path == "golden.npz"}

    with_it = installed(tmp_path / "with", tmp_path / "r")
    monkeypatch.setattr("edgewright_runtime.codec.patch.find_spec", lambda _: None)
    without = installed(tmp_path / "without", tmp_path / "r")

    assert sizes["zstd"] < sizes["bsdiff"]
    assert (with_it.patched, with_it.patch_failures) == (without.patched, without.patch_failures)
    assert "golden.npz" in without.patched
    assert without.downloaded_bytes > with_it.downloaded_bytes


def test_builder_adds_a_zstd_patch_where_it_is_smallest() -> None:
    text = b"".join(b"%d is a line that stays\n" % n for n in range(20_000))
    new = text[: len(text) // 2] + b"a new line\n" + text[len(text) // 2 :]

    codecs = [patch.codec for patch in build_patches("notes.txt", text, new)]

    assert codecs[0] != "zstd", "every device must be able to read one"
    assert codecs[1:] == ["zstd"]


def test_device_with_another_base_downloads_in_full(tmp_path: Path, base: Bundle, tuned: Bundle) -> None:
    repository, root = tmp_path / "r", tmp_path / "d"
    publish(base, str(repository), "stable")
    publish(tuned, str(repository), "stable")

    outcome = installed(root, repository)

    assert (outcome.patched, outcome.downloaded_bytes) == ((), tuned.download_bytes)


@pytest.mark.parametrize("harm", ["base", "patch", "bomb"])
def test_patch_that_fails_costs_a_download_only(tmp_path: Path, base: Bundle, tuned: Bundle, harm: str) -> None:
    repository, root = tmp_path / "r", tmp_path / "d"
    publish(base, str(repository), "stable")
    installed(root, repository)
    publish(tuned, str(repository), "stable")
    (patch,) = parse_release((repository / "releases/churn.edge_device.stable/2.json").read_bytes()).patches
    blob = repository / next(delta.name for delta in patch.files if delta.path == "churn.onnx")
    if harm == "base":
        model = root / "current/bundle/churn.onnx"
        model.write_bytes(model.read_bytes()[:-1] + b"!")
    elif harm == "patch":
        blob.write_bytes(b"\0" * blob.stat().st_size)
    else:
        blob.write_bytes(lzma.compress(b"\0" * (64 << 20)))

    outcome = installed(root, repository)

    assert outcome.status == "installed"
    assert "churn.onnx" not in outcome.patched
    assert len(outcome.patch_failures) == 1
    assert open_bundle(root / "current/bundle").lineage.model == hashlib.sha256(model_bytes(tuned)).hexdigest()


def tensor_patch(*segments: dict[str, Any], body: bytes = b"") -> bytes:
    header = json.dumps(segments).encode()
    return lzma.compress(TENSOR_MAGIC + struct.pack("<I", len(header)) + header + body)


def bsdiff(control: list[tuple[int, int, int]], diff: bytes, extra: bytes, size: int) -> bytes:
    packed = [bz2.compress(b"".join(struct.pack("<qqq", *c) for c in control)), bz2.compress(diff), bz2.compress(extra)]
    return b"BSDIFF40" + struct.pack("<qqq", len(packed[0]), len(packed[1]), size) + b"".join(packed)


@pytest.mark.parametrize(
    ("codec", "patch"),
    [
        ("tensor", b""),
        ("tensor", b"not xz"),
        ("tensor", lzma.compress(b"something else")),
        ("tensor", lzma.compress(TENSOR_MAGIC + b"\0\0")),
        ("tensor", lzma.compress(TENSOR_MAGIC + struct.pack("<I", 1 << 31))),
        ("tensor", lzma.compress(b"\0" * (64 << 20))),
        ("tensor", tensor_patch({"kind": "copy", "at": 0, "bytes": 1 << 40})),
        ("tensor", tensor_patch({"kind": "copy", "at": 90, "bytes": 20})),
        ("tensor", tensor_patch({"kind": "copy", "at": -1, "bytes": 20})),
        ("tensor", tensor_patch({"kind": "new", "bytes": 20}, body=b"short")),
        ("tensor", tensor_patch({"kind": "new", "bytes": 20}, body=b"x" * 21)),
        ("tensor", tensor_patch({"kind": "float", "at": 0, "bytes": 20, "width": 3}, body=b"x" * 20)),
        ("tensor", tensor_patch({"kind": "float", "at": 0, "bytes": 20, "width": 4}, body=b"x" * 16)),
        ("tensor", tensor_patch({"kind": "surprise", "bytes": 20})),
        ("tensor", tensor_patch({"kind": "copy", "at": 0, "bytes": 19})),
        ("tensor", tensor_patch()),
        ("tensor", lzma.compress(TENSOR_MAGIC + struct.pack("<I", 100_000) + b"[" * 100_000)),
        ("bsdiff", b"BSDIFF40"),
        ("bsdiff", bsdiff([(20, 0, 0)], b"\0" * 20, b"", 1 << 40)),
        ("bsdiff", bsdiff([(30, 0, 0)], b"\0" * 30, b"", 20)),
        ("bsdiff", bsdiff([(20, 0, 0)], b"\0" * 5, b"", 20)),
        ("bsdiff", bsdiff([(0, 20, 0)], b"", b"short", 20)),
        ("bsdiff", bsdiff([(0, 0, 5)] * 3, b"", b"", 20)),
        ("bsdiff", bsdiff([(20, 0, 0)], b"\0" * 20, b"", 20)[:40]),
        ("bsdiff", b"BSDIFF40" + struct.pack("<qqq", -5, 3, 20) + b"x" * 40),
        ("zstd", b"not zstd"),
        ("zstd", b""),
    ],
)
def test_hostile_patch_is_an_integrity_error(codec: str, patch: bytes) -> None:
    with pytest.raises(IntegrityError):
        apply_patch(codec, b"b" * 100, patch, 20)


def test_patch_whose_stream_is_damaged_or_cut_off_says_so() -> None:
    whole = tensor_patch({"kind": "new", "bytes": 20}, body=b"x" * 20)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1

    assert apply_patch("tensor", b"", whole, 20) == b"x" * 20
    with pytest.raises(IntegrityError, match="not a valid xz stream"):
        apply_patch("tensor", b"", bytes(damaged), 20)
    with pytest.raises(IntegrityError, match="cut off"):  # all that is packed is there, the stream's end is not
        apply_patch("tensor", b"", whole[:-1], 20)


@pytest.mark.parametrize("at_most", [0, 50])
def test_stream_unpacks_to_as_much_as_is_allowed_and_to_no_byte_more(at_most: int) -> None:
    assert _unpacked(lzma.compress(b"x" * at_most), at_most) == b"x" * at_most
    for more in (1, 2, 1000):
        with pytest.raises(IntegrityError, match="unpacks to more"):
            _unpacked(lzma.compress(b"x" * (at_most + more)), at_most)


_STEPS = """
import bz2, resource, struct, sys
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.codec.patch import apply_patch
steps, result = bz2.BZ2Compressor(), 20 << 20
piece = struct.pack("<qqq", *(int(n) for n in sys.argv[1:])) * (1 << 16)
packed = b"".join(steps.compress(piece) for _ in range(result >> 16)) + steps.flush()
patch = b"BSDIFF40" + struct.pack("<qqq", len(packed), 0, result) + packed
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    apply_patch("bsdiff", b"", patch, result)
except IntegrityError as e:
    print(len(patch), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, e)
"""


@pytest.mark.parametrize("step", [(0, 0, 0), (0, 0, 7)])
def test_steps_of_a_bsdiff_patch_take_no_memory_of_their_own(step: tuple[int, int, int]) -> None:
    """Half a gigabyte of steps that make nothing, in some hundred bytes."""
    done = subprocess.run([sys.executable, "-c", _STEPS, *map(str, step)], capture_output=True, text=True, check=True)

    patch_bytes, added_kb, message = done.stdout.split(maxsplit=2)
    assert int(patch_bytes) < 20_000
    assert int(added_kb) < 20_000
    assert "make nothing" in message


def test_zstd_bomb_stops_at_the_announced_length() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(b"\0" * (256 << 20))

    with pytest.raises(IntegrityError, match="21 bytes"):
        apply_patch("zstd", b"base", bomb, 20)


def test_patch_to_too_much_is_refused_before_anything_is_done() -> None:
    with pytest.raises(IntegrityError, match="at most"):
        apply_patch("tensor", b"", b"", MAX_PATCHED_BYTES + 1)
    with pytest.raises(BackendUnavailableError, match="known: tensor"):
        apply_patch("magic", b"", b"", 1)


def test_patch_to_as_much_as_is_patched_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright_runtime.codec.patch.MAX_PATCHED_BYTES", 20)

    assert apply_patch("tensor", b"", tensor_patch({"kind": "new", "bytes": 20}, body=b"x" * 20), 20) == b"x" * 20


def test_bsdiff_reads_outside_the_old_file_as_zero() -> None:
    patch = bsdiff([(4, 0, 0), (4, 0, 0)], b"\1" * 8, b"", 8)

    assert apply_patch("bsdiff", b"\5\5", patch, 8) == b"\6\6" + b"\1" * 6
