"""Saved Core ML packages, evaluated from their files, against torch's answers; and files that contradict themselves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.export import mlpackage
from edgewright.export.mil_evaluator import Evaluator, _fits, evaluate
from edgewright.export.stored import describe

SCRIPT = Path(__file__).parent / "build_packages.py"
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
# Each operator's result is rounded to half: 2^-11 relative, a few times over in a chain of them.
TOLERANCE = {"FLOAT32": 2e-6, "FLOAT16": 4e-3}
NAMES = [
    line.split('"')[1] for line in SCRIPT.read_text().splitlines() if line.startswith('    "') and "lambda" in line
]
SCHEMES = ("linear", "palette1", "palette2", "palette4", "palette6", "palette8", "sparse")
NAMES += ["hardswish", *(f"compressed_{scheme}" for scheme in SCHEMES)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_agrees_with_torch(packages, name):
    assert name not in json.loads((packages / "failures.json").read_text())
    reference = np.load(packages / f"{name}.npz")
    saved = sorted(packages.glob(f"{name}.*.mlpackage"))
    assert saved
    for package in saved:
        found = np.stack([evaluate(package, {"x": row})["y"] for row in reference["x"]])
        scale = max(1.0, float(np.abs(reference["y"]).max()))
        assert np.abs(found - reference["y"]).max() / scale < TOLERANCE[package.suffixes[-2].removeprefix(".")]


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("compressed_linear", "constexpr_affine_dequantize"),
        ("compressed_palette2", "constexpr_lut_to_dense"),
        ("compressed_sparse", "constexpr_sparse_to_dense"),
    ],
)
def test_compressed_weights_are_stored_compressed(packages, name, operator):
    assert mlpackage.operators(packages / f"{name}.FLOAT32.mlpackage")[operator] == 1


@pytest.mark.parametrize(
    ("kind", "operators"),
    [
        ("block_int4", {"constexpr_blockwise_shift_scale"}),
        ("block_uint4", {"constexpr_blockwise_shift_scale"}),
        ("block_int8", {"constexpr_blockwise_shift_scale"}),
        ("grouped_palette", {"constexpr_lut_to_dense"}),
        ("palette3", {"constexpr_lut_to_dense"}),
        ("vector_palette", {"constexpr_lut_to_dense"}),
    ],
)
def test_ios18_weights_decode_as_coremltools_decodes_them(packages, kind, operators):
    assert f"ios18_{kind}" not in json.loads((packages / "failures.json").read_text())
    small, dense = packages / f"ios18_{kind}.mlpackage", packages / f"ios18_{kind}_dense.mlpackage"
    assert operators == {name for name in mlpackage.operators(small) if name.startswith("constexpr")}
    assert not any(name.startswith("constexpr") for name in mlpackage.operators(dense))
    rows = np.load(packages / f"ios18_{kind}.npy")
    found, expected = (np.stack([evaluate(path, {"x": row})["y"] for row in rows]) for path in (small, dense))
    assert np.abs(found - expected).max() < 2e-6
    assert np.abs(expected).max() > 0.1
    stored = describe(small)
    assert stored.parameters == 40 * 32 + 40
    assert stored.size_bytes > sum(weights.bytes for weights in stored.weights) > 0


def copy_of(packages: Path, name: str, folder: Path) -> Path:
    return Path(shutil.copytree(packages / f"{name}.FLOAT32.mlpackage", folder / "copy.mlpackage"))


def test_a_changed_weight_changes_the_answer(packages, tmp_path):
    package = copy_of(packages, "compressed_linear", tmp_path)
    rows = np.load(packages / "compressed_linear.npz")
    content = bytearray((package / WEIGHTS).read_bytes())
    content[-1] ^= 0x40
    (package / WEIGHTS).write_bytes(content)
    assert np.abs(evaluate(package, {"x": rows["x"][0]})["y"] - rows["y"][0]).max() > 1e-3


def test_a_truncated_weight_file_is_refused(packages, tmp_path):
    package = copy_of(packages, "linear", tmp_path)
    content = (package / WEIGHTS).read_bytes()
    (package / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConversionError, match="weight file of"):
        evaluate(package, {"x": np.zeros((1, 6), np.float32)})
    (package / WEIGHTS).unlink()
    with pytest.raises(ConversionError, match="is missing"):
        evaluate(package, {"x": np.zeros((1, 6), np.float32)})


def test_an_unknown_operator_is_named(packages, tmp_path):
    package = copy_of(packages, "linear", tmp_path)
    specification = mlpackage.load(package)
    block = mlpackage.program_of(specification, package)
    next(op for op in block.operations if op.type == "relu").type = "relu_of_tomorrow"
    (package / MODEL).write_bytes(specification.SerializeToString())
    with pytest.raises(UnsupportedError, match="'relu_of_tomorrow' is not known"):
        evaluate(package, {"x": np.zeros((1, 6), np.float32)})


def test_a_declared_shape_that_cannot_be_is_refused(packages, tmp_path):
    package = copy_of(packages, "linear", tmp_path)
    specification = mlpackage.load(package)
    block = mlpackage.program_of(specification, package)
    declared = next(op for op in block.operations if op.type == "relu").outputs[0].type.tensorType
    declared.dimensions[1].constant.size = 7
    (package / MODEL).write_bytes(specification.SerializeToString())
    with pytest.raises(ConversionError, match="declared is"):
        evaluate(package, {"x": np.zeros((1, 6), np.float32)})


@pytest.mark.parametrize("output", [False, True])
def test_a_name_that_nothing_gives_is_refused(packages, tmp_path, output):
    package = copy_of(packages, "linear", tmp_path)
    specification = mlpackage.load(package)
    block = mlpackage.program_of(specification, package)
    if output:
        block.outputs[0] = "nowhere"
    else:
        next(op for op in block.operations if op.type == "relu").inputs["x"].arguments[0].name = "nowhere"
    (package / MODEL).write_bytes(specification.SerializeToString())
    with pytest.raises(ConversionError, match="'nowhere'"):
        evaluate(package, {"x": np.zeros((1, 6), np.float32)})


@pytest.mark.parametrize("name", ["FLOAT64", "INT64", "UINT64"])
def test_wide_types_are_computed_or_refused_by_name(packages, tmp_path, name):
    package = copy_of(packages, "linear", tmp_path)
    specification = mlpackage.load(package)
    block = mlpackage.program_of(specification, package)
    relu = next(op for op in block.operations if op.type == "relu")
    relu.outputs[0].type.tensorType.dataType = mlpackage.mil().DataType.Value(name)
    (package / MODEL).write_bytes(specification.SerializeToString())
    evaluator, given = Evaluator(package), {"x": np.ones((1, 6), np.float32)}
    values = {**evaluator.constants, **evaluator.entered(given)}
    steps = evaluator.steps[: [step.kind for step in evaluator.steps].index("relu") + 1]

    def computed():
        for step in steps:
            values.update(evaluator.computed(step, values))
        return values[relu.outputs[0].name].dtype

    if name == "UINT64":
        with pytest.raises(UnsupportedError, match="Core ML type UINT64"):
            computed()
    else:
        assert str(computed()) == f"torch.{name.lower()}"


@pytest.mark.parametrize(
    ("shape", "declared", "fits"),
    [
        ((1, 4, 4, 3), (1, 3, 4, 4), False),
        ((5, 3, 4, 4), (1, 3, 4, 4), True),
        ((32, 4), (16, 4), True),
        ((30, 4), (16, 4), False),
        ((2, 3, 8), (3, 8), True),
        ((7,), (1, 1), True),
        ((7, 1), (1,), True),
        ((7,), (), True),
    ],
)
def test_axes_in_another_order_are_another_shape(shape, declared, fits):
    assert _fits(shape, declared) is fits


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"y": np.zeros((1, 6), np.float32)}, r"takes the inputs \['x'\]"),
        ({"x": np.zeros((1, 5), np.float32)}, "has shape"),
        ({"x": np.zeros((6, 1), np.float32)}, "has shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(packages, inputs, message):
    with pytest.raises(InputError, match=message):
        evaluate(packages / "linear.FLOAT32.mlpackage", inputs)


def test_what_is_no_package_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a Core ML package"):
        evaluate(tmp_path, {})
    model = tmp_path / MODEL
    model.parent.mkdir(parents=True)
    model.write_bytes(b"\xff" * 50)
    with pytest.raises(InputError, match="not a Core ML model"):
        evaluate(tmp_path, {})
