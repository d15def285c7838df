import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.codec.containers import find_tensors
from edgewright.codec.download import transfer_form, unpacked
from edgewright.store import home
from edgewright.validate import download_bytes
from edgewright_runtime.codec.ewz import is_ewz
from edgewright_runtime.errors import IntegrityError


def sparse_model(path: Path) -> bytes:
    """An ONNX file of one sparse layer, 40 kB."""
    rng = np.random.default_rng(0)
    weights = (rng.integers(-3, 4, (100, 100)) * (rng.random((100, 100)) < 0.1)).astype(np.float32) * np.float32(0.01)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 100]) for name in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph), path)
    return path.read_bytes()


def test_download_is_what_travels(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"edge" * 5000)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(bytes(range(256)) * 4)
    one, two = (download_bytes(tmp_path / name) for name in ("a", "sub/b"))
    assert one == len(lzma.compress(b"edge" * 5000, preset=6)) < 20000
    assert download_bytes(tmp_path) == one + two


def test_a_model_travels_as_ewz_and_comes_back(tmp_path: Path) -> None:
    content = sparse_model(tmp_path / "m.onnx")
    packed = transfer_form(tmp_path / "m.onnx")
    assert is_ewz(packed)
    assert download_bytes(tmp_path / "m.onnx") == len(packed) < 0.8 * len(lzma.compress(content, preset=9))
    assert unpacked(packed, len(content)) == content


def test_a_coded_model_is_kept_and_a_damaged_copy_is_not_used(tmp_path: Path, edgewright_home: Path) -> None:
    sparse_model(tmp_path / "m.onnx")
    packed = transfer_form(tmp_path / "m.onnx")
    (kept,) = (home() / "transfer").rglob("packed")
    kept.write_bytes(packed[:-1] + b"\0\0")
    assert transfer_form(tmp_path / "m.onnx") == packed
    kept.with_name("parts.json").write_text("{}")
    assert transfer_form(tmp_path / "m.onnx") == packed
    assert edgewright_home in kept.parents


def test_a_file_that_is_only_named_like_a_model_travels_as_xz(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\xff\xff\xff no model" * 100)
    assert lzma.decompress(transfer_form(tmp_path / "weights.bin")) == b"\xff\xff\xff no model" * 100


def test_a_transfer_form_is_unpacked_within_its_limit_only(tmp_path: Path) -> None:
    content = sparse_model(tmp_path / "m.onnx")
    with pytest.raises(IntegrityError, match="above"):
        unpacked(transfer_form(tmp_path / "m.onnx"), len(content) - 1)


def test_an_xz_is_unpacked_within_its_limit_only() -> None:
    packed = lzma.compress(b"x" * 10_000_000)
    with pytest.raises(IntegrityError, match="unpacks to more than 10 bytes"):
        unpacked(packed, 10)
    assert unpacked(packed, 10_000_000) == b"x" * 10_000_000


@pytest.mark.parametrize("damage", [lambda p: b"no xz" + p, lambda p: p[:-9], lambda p: p + b"x", lambda _: b""])
def test_what_is_no_whole_xz_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(IntegrityError, match="xz stream"):
        unpacked(damage(lzma.compress(b"x" * 1000)), 1000)


@pytest.mark.parametrize("intruder", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_stands_in_the_place_of_a_kept_form_is_set_aside(
    tmp_path: Path, edgewright_home: Path, intruder: Callable[[Path], None]
) -> None:
    sparse_model(tmp_path / "m.onnx")
    packed = transfer_form(tmp_path / "m.onnx")
    (kept,) = (edgewright_home / "transfer").iterdir()
    shutil.rmtree(kept)
    intruder(kept)

    assert transfer_form(tmp_path / "m.onnx") == packed
    assert (kept / "packed").read_bytes() == packed


@pytest.mark.parametrize("dims", [[1000], [-5, -2], [-9], [3, 3, 0], []])
def test_tensor_whose_shape_is_not_that_of_its_bytes_travels_as_it_is(tmp_path: Path, dims: list[int]) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(range(40)))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    content = helper.make_model(graph).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content)
    assert unpacked(transfer_form(tmp_path / "m.onnx"), len(content)) == content


def test_weight_file_that_leads_back_to_its_own_description_ends(tmp_path: Path) -> None:
    header = np.array([2**31, 2], "<u4").tobytes()
    blob = np.array([0xDEADBEEF, 1], "<u4").tobytes() + np.array([0, 64], "<u8").tobytes()
    content = header.ljust(64, b"\0") + blob.ljust(64, b"\0")
    (tmp_path / "weight.bin").write_bytes(content)
    assert find_tensors(content) == []
    assert unpacked(transfer_form(tmp_path / "weight.bin"), len(content)) == content
