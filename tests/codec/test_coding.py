"""The encoder of ``.ewz`` on real files: bounds, other compressors, and which coder is chosen."""

import copy
import hashlib
import lzma
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import zstandard
from onnx import helper, numpy_helper
from torch import nn

from edgewright.codec.containers import find_tensors
from edgewright.codec.files import encode_file
from edgewright.codec.huffman import code_lengths
from edgewright.codec.streams import huffman_stream, plan_context
from edgewright.codec.writer import TensorSpan, encode
from edgewright.errors import InputError
from edgewright.optimize.prune import prune
from edgewright.recipe import Prune
from edgewright_runtime.codec.ewz import rebuild

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def onnx_file(tensors: dict[str, np.ndarray], path: Path) -> Path:
    initializers = [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:], initializers)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def order_zero_bytes(symbols: np.ndarray) -> float:
    _, counts = np.unique(symbols, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def others(content: bytes) -> int:
    xz = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    return min(len(xz), len(zstandard.ZstdCompressor(level=19).compress(content)))


def sparse_levels(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Levels whose density differs by row and column, as in a pruned network."""
    odds = rng.gamma(0.5, 1, rows)[:, None] * rng.gamma(0.5, 1, columns)[None, :]
    held = rng.random((rows, columns)) < np.clip(0.08 * odds, 0, 0.9)
    return np.where(held, rng.integers(1, 4, (rows, columns)) * rng.choice([-1, 1], (rows, columns)), 0)


def test_huffman_comes_within_a_percent_of_the_entropy_on_a_large_tensor():
    symbols = np.clip(np.random.default_rng(0).normal(0, 20, 400_000).round(), -127, 127).astype(np.int64)
    assert len(huffman_stream(symbols)) < 1.01 * order_zero_bytes(symbols)


def test_huffman_lengths_are_optimal_and_limited():
    assert code_lengths(np.array([5, 1, 1, 0, 2])).tolist() == [1, 3, 3, 0, 2]
    fibonacci = [1, 1]
    while len(fibonacci) < 30:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = code_lengths(np.array(fibonacci))
    assert lengths.max() <= 15
    assert (2.0**-lengths).sum() <= 1


def test_the_context_coder_is_chosen_and_below_the_order_zero_entropy(tmp_path):
    levels = sparse_levels(np.random.default_rng(1), 100, 400)
    path = onnx_file({"w": levels.astype(np.float32) * np.float32(0.03)}, tmp_path / "m.onnx")
    coded = encode_file(path)
    assert coded.methods == ("context",)
    assert coded.index_bytes < 0.97 * order_zero_bytes(levels)
    assert rebuild(coded.data) == path.read_bytes()
    assert len(encode_file(path, coder="huffman").data) > len(coded.data)
    assert len(encode_file(path, coder="fixed").data) > len(encode_file(path, coder="huffman").data)


def test_parts_add_up_to_the_file(tmp_path):
    levels = sparse_levels(np.random.default_rng(1), 40, 100)
    coded = encode_file(onnx_file({"w": levels.astype(np.float32) * np.float32(0.03)}, tmp_path / "m.onnx"))
    assert coded.codebook_bytes + coded.index_bytes + coded.skeleton_bytes == len(coded.data)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "sparse", "palette", "zeros", "repeated"])
def test_never_larger_than_zstd_or_xz(kind, tmp_path):
    rng = np.random.default_rng(2)
    shape = (120, 150)
    plain = rng.normal(0, 0.05, shape).astype(np.float32)
    made = {
        "float32": plain,
        "float16": plain.astype(np.float16),
        "int8": (plain * 500).round().clip(-127, 127).astype(np.int8),
        "sparse": np.where(rng.random(shape) < 0.1, plain, np.float32(0)),
        "palette": rng.choice(rng.normal(size=16).astype(np.float32), shape),
        "zeros": np.zeros(shape, np.float32),
        "repeated": np.tile(plain[:10], (12, 1)),
    }[kind]
    path = onnx_file({"w": made, "b": plain[0]}, tmp_path / "m.onnx")
    coded = encode_file(path)
    assert rebuild(coded.data) == path.read_bytes()
    assert len(coded.data) <= others(path.read_bytes())


def test_a_tflite_file_comes_back_and_its_tensors_are_found(tmp_path):
    import tensorflow as tf

    class Small(tf.Module):
        def __init__(self) -> None:
            levels = sparse_levels(np.random.default_rng(3), 40, 200)
            self.weight = tf.constant(levels.T.astype(np.float32) * np.float32(0.02))

        @tf.function(input_signature=[tf.TensorSpec([1, 200], tf.float32)])
        def run(self, x):
            return tf.nn.relu(tf.matmul(x, self.weight))

    small = Small()
    path = tmp_path / "m.tflite"
    path.write_bytes(
        tf.lite.TFLiteConverter.from_concrete_functions([small.run.get_concrete_function()], small).convert()
    )
    spans = find_tensors(path.read_bytes())
    assert any(s.rows * s.columns == 8000 and s.dtype == "<f4" for s in spans)
    coded = encode_file(path)
    assert "context" in coded.methods
    assert rebuild(coded.data) == path.read_bytes()
    assert len(coded.data) <= others(path.read_bytes())


def test_a_core_ml_weight_file_comes_back_and_its_tensors_are_found(tmp_path):
    blob = np.random.default_rng(4).normal(0, 0.05, 3000).astype(np.float16).tobytes()
    head = np.array([2, 2], "<u4").tobytes().ljust(64, b"\0")
    content = head
    for part in (blob, blob[:1000]):
        data_at = len(content) + 64
        meta = np.array([0xDEADBEEF, 1], "<u4").tobytes() + np.array([len(part), data_at], "<u8").tobytes()
        content += meta.ljust(64, b"\0") + part
        content += b"\0" * (-len(content) % 64)
    path = tmp_path / "weight.bin"
    path.write_bytes(content)
    assert [(s.columns, s.dtype) for s in find_tensors(content)] == [(3000, "<f2"), (500, "<f2")]
    assert rebuild(encode_file(path).data) == content


@pytest.mark.parametrize("count", [3000, 9000, 70_000])
def test_a_fine_grid_comes_back_whatever_the_number_of_its_levels(count):
    content = (np.arange(count, dtype=np.float32) * np.float32(0.001)).tobytes()
    assert rebuild(encode(content, [TensorSpan(0, "<f4", 1, count)]).data) == content


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"\xff\xff\xff not a model" * 20)
    with pytest.raises(InputError, match="can be coded"):
        encode_file(path)


def test_a_tensor_too_large_for_the_context_coder_takes_huffman():
    content = (np.random.default_rng(6).integers(-8, 8, 1 << 19).astype(np.float32) * np.float32(0.01)).tobytes()
    coded = encode(content, [TensorSpan(0, "<f4", 512, 1024)], context_levels=1 << 18)
    assert coded.methods == ("huffman",)
    assert rebuild(coded.data) == content


def test_the_weights_of_a_torch_export_are_found(tmp_path):
    path = tmp_path / "m.onnx"
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    torch.onnx.export(model, (torch.zeros(1, 3, 8, 8),), str(path), dynamo=True, external_data=False, verbose=False)
    sizes = {s.rows * s.columns for s in find_tensors(path.read_bytes())}
    assert {8 * 27, 8 * 36 * 10} <= sizes


def test_pruning_by_rate_leaves_weights_whose_places_code_shorter():
    torch.manual_seed(0)
    # Rows and columns matter unequally, as in a trained layer.
    scale = torch.rand(120, 1) + torch.rand(1, 300)
    model = nn.Sequential(nn.Linear(300, 120))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(120, 300) * scale)
    taken = {}
    for scope in ("global", "rate"):
        kept = prune(model, Prune(sparsity=0.9, scope=scope, training=None), None)[0].weight.detach() != 0
        # Masks are recomputed while a network trains; here once more, by the densities that the first left.
        assert float(kept.float().mean()) == pytest.approx(0.1, abs=0.001)
        again = copy.deepcopy(model)
        with torch.no_grad():
            again[0].weight.mul_(kept)
        again = prune(again, Prune(sparsity=0.95, scope=scope, training=None), None)
        taken[scope] = plan_context((again[0].weight.detach() != 0).numpy().astype(np.int32), ()).cost_bytes
    assert taken["rate"] < 0.97 * taken["global"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "encode_s", "decode_s", "decode_mb"), [("int8", 400, 30, 1000), ("sparse", 200, 20, 1000)]
)
def test_twenty_five_million_weights_are_coded_and_rebuilt_within_limits(kind, encode_s, decode_s, decode_mb, tmp_path):
    rng = np.random.default_rng(0)
    dense = kind == "int8"
    weights = np.clip(rng.normal(0, 25, (5000, 5000)).round(), -127, 127) if dense else sparse_levels(rng, 5000, 5000)
    content = weights.astype(np.int8).tobytes()
    began = time.process_time()
    coded = encode(content, [TensorSpan(0, "<i1", 5000, 5000)])
    assert time.process_time() - began < encode_s
    # Huffman's codes come within a percent of the order-0 entropy; contexts take less where zeros have a pattern.
    assert len(coded.data) < (1.01 if dense else 0.9) * order_zero_bytes(weights.astype(np.int64))
    (tmp_path / "large.ewz").write_bytes(coded.data)
    code = (
        "import hashlib, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, ({decode_s}, {decode_s}))\n"
        "from edgewright_runtime.codec.ewz import rebuild\n"
        "made = rebuild(open(sys.argv[1], 'rb').read())\n"
        "print(hashlib.sha256(made).hexdigest(), open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "large.ewz")], capture_output=True, text=True, check=True
    )
    digest, peak_kb = done.stdout.split()
    assert digest == hashlib.sha256(content).hexdigest()
    assert int(peak_kb) < decode_mb << 10
