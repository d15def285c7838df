"""8-bit sums on x86 without VNNI: which files saturate there, and that those made for it do not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgewright.artifact import Exported, Precision
from edgewright.export import export
from edgewright.export.pair_sums import largest_pair_sum
from edgewright.export.runs import outputs_of
from edgewright.profile import ExportOptions, Platform, load_device
from edgewright.validate import evaluate
from edgewright.validate.targets.local import run_bench
from edgewright.validate.targets.x86 import EmulatedX86, missing_tool
from edgewright_runtime.bench.answer import BenchAnswer
from edgewright_runtime.bench.run import BenchModel, BenchSpec, read_arrays, write_arrays
from edgewright_runtime.bundle import processor
from edgewright_runtime.bundle.manifest import Kernels, Processor
from edgewright_runtime.bundle.processor import INT16_LIMIT
from tests.export.test_scaling import through_the_door

INTEL = "model name\t: old\nflags\t\t: fpu sse2 avx2\n"


def quantized(kind: str, left: np.ndarray, right: np.ndarray, **attributes: object) -> onnx.ModelProto:
    """One layer of quantized numbers with scale 1 and zero point 0, in the form that `quantize_static` writes."""
    numbers = {"w": right, "s": np.float32(1), "z": np.array(0, left.dtype), "zw": np.int8(0)}
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        onnx.helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["dw"]),
        onnx.helper.make_node(kind, ["d", "dw"], ["y"], **attributes),
    ]
    shapes = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, left.shape),
              onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]  # fmt: skip
    held = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in numbers.items()]
    graph = onnx.helper.make_graph(nodes, "g", shapes[:1], shapes[1:], held)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def found(model: onnx.ModelProto, left: np.ndarray) -> int:
    return largest_pair_sum(model, [{"x": left.astype(np.float32)}])


def test_pairs_of_a_dense_layer() -> None:
    left = np.array([[10, 20, 30]], np.uint8)
    right = np.array([[1, -5], [2, 3], [-4, 7]], np.int8)
    assert found(quantized("MatMul", left, right), left) == 210  # 30 * 7; 10 * -5 + 20 * 3 is 10
    assert found(quantized("Gemm", left, right.T.copy(), transB=1), left) == 210
    signed = (left.astype(np.int16) - 128).astype(np.int8)
    # A kernel for signed numbers adds 128 first, so that the same unsigned ones are multiplied.
    assert found(quantized("MatMul", signed, right), signed) == 210


@pytest.mark.parametrize(("pads", "strides", "dilations"), [([0] * 4, [1, 1], [1, 1]), ([1, 0, 2, 1], [2, 1], [1, 2])])
def test_pairs_of_a_convolution_are_those_of_its_windows(pads, strides, dilations) -> None:
    chance = np.random.default_rng(0)
    left = chance.integers(0, 256, (1, 4, 7, 6), np.uint8)
    right = chance.integers(-127, 128, (6, 2, 3, 2)).astype(np.int8)
    model = quantized("Conv", left, right, group=2, pads=pads, strides=strides, dilations=dilations)
    image = nn.functional.pad(torch.from_numpy(left).float(), (pads[1], pads[3], pads[0], pads[2]))
    largest = 0
    for group in range(2):
        part = image[:, 2 * group : 2 * group + 2]
        columns = nn.functional.unfold(part, (3, 2), dilation=dilations, stride=strides).reshape(2, 6, -1)
        filters = torch.from_numpy(right[3 * group : 3 * group + 3]).float().reshape(3, 2, 6)
        products = torch.einsum("cpn,ocp->onpc", columns, filters).reshape(3, columns.shape[2], -1)
        largest = max(largest, int(products.reshape(*products.shape[:2], -1, 2).sum(-1).abs().max()))
    assert found(model, left) == largest > INT16_LIMIT


def test_a_depthwise_convolution_adds_in_32_bits() -> None:
    left = np.full((1, 3, 4, 4), 255, np.uint8)
    assert found(quantized("Conv", left, np.full((3, 1, 3, 3), 127, np.int8), group=3), left) == 0


@pytest.mark.parametrize(("channels", "filters"), [(1, 4), (3, 6)])
def test_one_channel_for_several_filters_is_a_product_of_matrices(channels: int, filters: int) -> None:
    """A grey picture, and several filters a channel: the kernels for depthwise convolutions take neither."""
    left = np.full((1, channels, 4, 4), 255, np.uint8)
    model = quantized("Conv", left, np.full((filters, 1, 3, 3), 127, np.int8), group=channels)
    assert found(model, left) == 2 * 127 * 255


class Steep:
    """A network whose first layer sums large numbers of equal sign: where pairs saturate, nothing of it is right."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        chance = np.random.default_rng(0)
        x = chance.uniform(0, 1, (600, 16)).astype(np.float32)
        x[:300, :8] += 2
        x[300:, 8:] += 2
        y = (np.arange(600) >= 300).astype(np.int64)
        net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
        first, second = torch.tensor([1.0, 0.8]).repeat_interleave(8), torch.tensor([0.8, 1.0]).repeat_interleave(8)
        net[0].weight.data = torch.stack([first, second]).repeat_interleave(16, 0) + 0.02 * torch.randn(32, 16)
        net[2].weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat_interleave(16, 1)
        net[2].bias.data.zero_()
        order = chance.permutation(600)
        program = torch.export.export(net.eval(), (torch.zeros(2, 16),), dynamic_shapes=({0: torch.export.Dim("n")},))
        torch.export.save(program, folder / "steep.pt2")
        np.savez(folder / "steep.npz", x=x[order], y=y[order])
        self.intake, self.store = through_the_door(folder, folder / "steep.pt2", folder / "steep.npz")
        self.rows = {self.intake.model.inputs[0].name: x[order][:32]}

    def export(self, precision: Precision = Precision.INT8, **how: object) -> Exported:
        given = self.intake.model, self.intake.dataset, Platform.EDGE_DEVICE, precision, self.store
        return export(*given, **how)


@pytest.fixture(scope="module")
def steep(tmp_path_factory: pytest.TempPathFactory) -> Steep:
    return Steep(tmp_path_factory.mktemp("steep"))


def test_weights_have_fewer_levels_where_8_bits_would_saturate(steep: Steep) -> None:
    made = {
        "plain x86": steep.export(instruction_set="x86_64"),
        "VNNI": steep.export(instruction_set="x86_64", dot_products=True),
        "Arm": steep.export(),
        "dynamic": steep.export(Precision.DYNAMIC_INT8),
        "ort": steep.export(options=ExportOptions(ort_format=True)),
    }
    assert {name: file.made_for.largest_pair_sum > INT16_LIMIT for name, file in made.items() if file.made_for} == {
        "plain x86": False, "VNNI": True, "Arm": True, "ort": False,
    }  # fmt: skip
    assert {name: pairs_of(file.artifact.path) <= 128 for name, file in made.items() if name != "ort"} == {
        "plain x86": True, "VNNI": False, "Arm": False, "dynamic": True,
    }  # fmt: skip


def pairs_of(path: Path) -> int:
    """The largest sum of two neighbouring weights of one sign, in 8 bits, of the dense layers."""
    graph = onnx.load(path).graph
    held = {t.name: onnx.numpy_helper.to_array(t).astype(int) for t in graph.initializer if t.data_type == 3}
    transposed = {node.input[1] for node in graph.node if any(a.name == "transB" and a.i for a in node.attribute)}
    transposed |= {n.input[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] in transposed}
    largest = 0
    for name, weight in held.items():
        if weight.ndim == 2:
            pairs = (weight.T if name in transposed else weight).reshape(-1, 2, weight.shape[name not in transposed])
            largest = max(largest, *(int(np.maximum(side, 0).sum(axis=1).max()) for side in (pairs, -pairs)))
    return largest


@pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or "")
def test_files_for_x86_answer_alike_without_vnni_and_others_do_not(steep: Steep, tmp_path: Path) -> None:
    write_arrays(tmp_path / "rows.npz", steep.rows)

    def difference(made: Exported) -> float:
        """Of an emulated core without VNNI from what the file says, over the largest output."""
        path, name = made.artifact.path, next(iter(steep.rows))
        model = BenchModel(str(path), "onnx", (name,), ("y",))
        spec = BenchSpec("outputs", (model,), str(tmp_path / "rows.npz"), outputs=str(tmp_path / "there.npz"))
        EmulatedX86().run(spec, "running it", 120)
        there = read_arrays(tmp_path / "there.npz")["y"]
        run_bench(
            BenchSpec(**{**spec.__dict__, "outputs": str(tmp_path / "h.npz"), "kernels": Kernels(int8=False)}), ""
        )
        here = read_arrays(tmp_path / "h.npz")["y"]
        return float(np.abs(there - here).max() / np.abs(here).max())

    assert difference(steep.export(instruction_set="x86_64")) < 0.02
    assert difference(steep.export(Precision.DYNAMIC_INT8)) < 0.02
    assert difference(steep.export(instruction_set="x86_64", dot_products=True)) > 0.1
    assert difference(steep.export()) > 0.1


def test_on_a_machine_that_saturates_files_for_others_are_judged_by_what_they_say(
    steep: Steep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(INTEL)
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    asked: list[Kernels] = []

    def noted(spec: BenchSpec, *rest: object, **how: object) -> BenchAnswer[object]:
        asked.append(spec.kernels)
        return run_bench(spec, *rest, **how)

    monkeypatch.setattr("edgewright.validate.evaluation.run_bench", noted)
    for made in (steep.export(), steep.export(instruction_set="x86_64")):
        assert evaluate(steep.intake.model, steep.intake.dataset, made).accuracy.value > 0.97
    assert asked[0].int8 is False
    assert asked[-1].int8 is None


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags\t\t: sse2 avx2\n", True),
        ("x86_64", "flags\t\t: avx2 avx_vnni\n", False),
        ("AMD64", "flags\t\t: avx512f avx512_vnni\n", False),
        ("x86_64", None, True),
        ("aarch64", "Features\t: asimd\n", False),
    ],
)
def test_which_processors_saturate(monkeypatch, tmp_path, machine, flags, expected) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}")
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    assert processor.saturates() is expected
    said = processor.misfit(Processor("arm64", False, 50_000))
    assert ("saturates at 32,767" in said) is expected
    assert processor.misfit(Processor("x86_64", False, 30_000)) == processor.misfit(None) == ""


def test_profiles_decide_the_bits_of_weights() -> None:
    bits = {
        name: load_device(name).weight_bits for name in ("generic_edge_device", "x86_gateway_n100", "raspberry_pi_4")
    }
    assert bits == {"generic_edge_device": 7, "x86_gateway_n100": 8, "raspberry_pi_4": 8}
    assert load_device("pixel_8").weight_bits == 8


def test_the_file_itself_is_run_exactly_where_kernels_saturate(steep: Steep) -> None:
    """Under emulation, in the very function that compares a file with its model."""
    if reason := missing_tool():
        pytest.skip(reason)
    made = steep.export()
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom edgewright_runtime.bundle import processor\n"
        "processor._CPUINFO = Path('/nowhere')\nfrom edgewright.artifact import Format\n"
        "from edgewright.export.runs import outputs_of\nrows = dict(np.load(sys.argv[2]))\n"
        "np.save(sys.argv[3], outputs_of(Path(sys.argv[1]), Format.ONNX, rows, [sys.argv[4]])[sys.argv[4]])\n"
    )
    folder, output = made.artifact.path.parent, steep.intake.model.outputs[0].name
    rows, there = steep.store.root / "rows.npz", steep.store.root / "there.npy"
    np.savez(rows, **steep.rows)
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", code, made.artifact.path, rows, there, output]
    subprocess.run(command, check=True, capture_output=True, cwd=folder.parent)
    from edgewright.artifact import Format

    here = outputs_of(made.artifact.path, Format.ONNX, steep.rows, [output])[output]
    assert np.abs(np.load(there) - here).max() < 0.02 * np.abs(here).max()
