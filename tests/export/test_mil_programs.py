"""Core ML programs written by hand: what they may hold and a converter does not write, and what contradicts itself."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.export import mlpackage
from edgewright.export.mil_evaluator import evaluate
from edgewright.export.mil_operators import OPERATORS, Arguments
from edgewright.export.mil_operators.constants import _bits
from edgewright.export.mil_program import read_program

MODEL = "com.apple.CoreML/model.mlmodel"


def computed(kind, **operands):
    given = {name: [v if isinstance(v, str) else torch.as_tensor(v)] for name, v in operands.items()}
    return OPERATORS[kind](Arguments(given, 1))


def type_of(value_type, dtype, shape):
    kind = value_type.tensorType
    kind.dataType, kind.rank = getattr(mlpackage.mil(), dtype), len(shape)
    for size in shape:
        kind.dimensions.add().constant.size = size


@pytest.fixture
def specification():
    """relu(x + c), of (1, 2)."""
    model = mlpackage._proto("Model_pb2").Model(specificationVersion=7)
    for side, name in ((model.description.input, "x"), (model.description.output, "y")):
        array = side.add(name=name).type.multiArrayType
        array.shape.extend([1, 2])
        array.dataType = array.FLOAT32
    model.mlProgram.version = 1
    function = model.mlProgram.functions["main"]
    function.opset = "CoreML6"
    type_of(function.inputs.add(name="x").type, "FLOAT32", (1, 2))
    block = function.block_specializations["CoreML6"]
    block.outputs.append("y")
    constant = block.operations.add(type="const")
    type_of(constant.outputs.add(name="c").type, "FLOAT32", (1, 2))
    value = constant.attributes["val"]
    type_of(value.type, "FLOAT32", (1, 2))
    value.immediateValue.tensor.floats.values.extend([1.0, -2.0])
    for kind, names, result in (("add", {"x": "x", "y": "c"}, "s"), ("relu", {"x": "s"}, "y")):
        operation = block.operations.add(type=kind)
        for name, given in names.items():
            operation.inputs[name].arguments.add(name=given)
        type_of(operation.outputs.add(name=result).type, "FLOAT32", (1, 2))
    return model


def block_of(specification):
    return specification.mlProgram.functions["main"].block_specializations["CoreML6"]


def saved(specification, folder, place=MODEL):
    file = folder / "Data" / place
    file.parent.mkdir(parents=True)
    file.write_bytes(specification.SerializeToString())
    entries = {"itemInfoEntries": {"an id": {"path": place}}, "rootModelIdentifier": "an id"}
    (folder / "Manifest.json").write_text(json.dumps(entries))
    return folder


ROW = {"x": np.array([[0.5, 1.0]], np.float32)}


@pytest.mark.parametrize("place", [MODEL, "com.apple.CoreML/network.mlmodel", "elsewhere/model.mlmodel"])
def test_the_model_is_where_the_manifest_says(specification, tmp_path: Path, place) -> None:
    package = saved(specification, tmp_path / "m.mlpackage", place)
    assert evaluate(package, ROW)["y"].tolist() == [[1.5, 0.0]]
    mlpackage.make_reproducible(package)
    assert mlpackage.operators(package) == {"add": 1, "relu": 1}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("{", "not the manifest of a Core ML package"),
        ("[]", "not the manifest of a Core ML package"),
        ('{"itemInfoEntries": {"a": {"path": "../../m"}}, "rootModelIdentifier": "a"}', "lies outside the package"),
        ('{"itemInfoEntries": {"a": {"path": "m.mlmodel"}}, "rootModelIdentifier": "a"}', "m.mlmodel is missing"),
    ],
)
def test_a_damaged_manifest_is_refused(specification, tmp_path: Path, manifest, said) -> None:
    package = saved(specification, tmp_path / "m.mlpackage")
    (package / "Manifest.json").write_text(manifest)
    with pytest.raises(InputError, match=said):
        mlpackage.load(package)


def test_a_program_without_what_is_run_is_refused(specification, tmp_path: Path) -> None:
    functions = specification.mlProgram.functions
    functions["main"].opset = "CoreML9"
    with pytest.raises(InputError, match=r"of opset 'CoreML9', and it holds those of \['CoreML6'\]"):
        read_program(saved(specification, tmp_path / "opset.mlpackage"))
    functions["other"].CopyFrom(functions["main"])
    del functions["main"]
    with pytest.raises(InputError, match=r"has the functions \['other'\], and 'main' is what is run"):
        read_program(saved(specification, tmp_path / "main.mlpackage"))


def test_an_unknown_type_is_refused_by_its_number(specification, tmp_path: Path) -> None:
    block_of(specification).operations[1].outputs[0].type.tensorType.dataType = 99
    with pytest.raises(UnsupportedError, match="values of type 99"):
        read_program(saved(specification, tmp_path / "m.mlpackage"))


@pytest.mark.parametrize("numbers", [[1.0], [1.0, 2.0, 3.0], b"123"])
def test_a_constant_of_another_length_is_refused(specification, tmp_path: Path, numbers) -> None:
    tensor = block_of(specification).operations[0].attributes["val"].immediateValue.tensor
    if isinstance(numbers, bytes):
        tensor.bytes.values = numbers
    else:
        tensor.floats.values[:] = numbers
    with pytest.raises(ConversionError, match=r"a constant of type FLOAT32 and shape \(1, 2\) is not what is stored"):
        read_program(saved(specification, tmp_path / "m.mlpackage"))


@pytest.mark.parametrize(
    ("kind", "operands"),
    [
        ("constexpr_blockwise_shift_scale", {"data": torch.ones(4, 2), "scale": torch.ones(0, 1)}),
        ("constexpr_blockwise_shift_scale", {"data": torch.ones(4, 2), "scale": torch.ones(3, 1)}),
        ("constexpr_lut_to_dense", {"indices": torch.zeros(4, 2), "lut": torch.ones(0, 1, 4, 1)}),
        ("depth_to_space", {"x": torch.ones(1, 4, 2, 2), "block_size": 0}),
        ("gather", {"x": torch.tensor(1.0), "indices": torch.tensor([0]), "axis": 0}),
    ],
)
def test_sizes_of_zero_are_a_programs_fault(kind, operands) -> None:
    with pytest.raises(ValueError, match=r"blocks do not divide|that cannot be"):
        computed(kind, **operands)


_UNPACKING = """
import re
from pathlib import Path
import torch
from edgewright.export.mil_operators.constants import _bits
def peak():  # of memory, in kB
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
packed = torch.zeros(3_000_000, dtype=torch.uint8)
before = peak()
assert len(_bits(packed, 6, 4_000_000)) == 4_000_000
print(peak() - before)
"""


def test_millions_of_packed_places_take_little_memory() -> None:
    told = subprocess.run([sys.executable, "-c", _UNPACKING], capture_output=True, text=True, timeout=120, check=True)
    assert int(told.stdout.split()[-1]) < 100_000


def test_packed_places_are_unpacked() -> None:
    packed = torch.randint(0, 256, (3,), dtype=torch.uint8)
    whole = int.from_bytes(bytes(packed.tolist()), "little")
    assert _bits(packed, 6, 4).tolist() == [(whole >> shift) & 63 for shift in (0, 6, 12, 18)]


def test_an_image_grows_to_the_size_that_coremltools_declares() -> None:
    for size in (3, 7, 300, 301, 1111, 4096):
        for scale in (7 / 3, 1.7, 0.3, 4 / 3, 2.0):
            scale_of_file = np.float32(scale)
            x = torch.zeros(1, 1, size, 1)
            found = computed("upsample_nearest_neighbor", x=x, scale_factor_height=torch.tensor(scale_of_file))
            assert found.shape[2] == math.floor(scale_of_file * size)
    x = torch.zeros(1, 1, 300, 1)
    assert computed("upsample_bilinear", x=x, scale_factor_height=torch.tensor(np.float32(7 / 3))).shape[2] == 700


SCATTERED = [
    ("scatter", {"data": torch.zeros(5), "updates": torch.ones(1)}, [[7], [-6]]),
    ("scatter_along_axis", {"data": torch.zeros(5), "updates": torch.ones(1)}, [[7], [-6]]),
    ("scatter_nd", {"data": torch.zeros(5), "updates": torch.ones(1)}, [[[7]], [[-6]]]),
]


@pytest.mark.parametrize(("kind", "operands", "indices"), SCATTERED)
def test_an_index_outside_the_axis_is_refused(kind, operands, indices) -> None:
    for outside in indices:
        with pytest.raises(ValueError, match="lies outside an axis of 5 places"):
            computed(kind, indices=torch.tensor(outside), mode="update", **operands)
    last = torch.tensor(indices[0]) * 0 - 1
    assert computed(kind, indices=last, mode="update", **operands).tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("pad", [[1, 2, 2, 1], [1, 0, 2, 1, 0, 3], [2, 1]])
@pytest.mark.parametrize("rank", [3, 4, 5])
def test_padding_at_any_rank_is_torchs(rank, pad, mode) -> None:
    x = torch.randn(2, 3, 4, 5, 4)[(0,) * (5 - rank)]
    # torch takes batches only up to a rank of its own for each number of axes: here as one axis before them.
    axes = len(pad) // 2
    flat = [n for i in reversed(range(axes)) for n in pad[2 * i : 2 * i + 2]]
    grown = x.reshape(1, -1, *x.shape[rank - axes :])
    expected = functional.pad(grown, flat, mode=mode)
    found = computed("pad", x=x, pad=torch.tensor(pad), mode=mode)
    assert torch.equal(found.reshape(expected.shape), expected)


def test_a_mirrored_axis_is_as_long_as_its_mirror() -> None:
    with pytest.raises(ValueError, match="5 places are mirrored of an axis of 5, at most 4 can be"):
        computed("pad", x=torch.zeros(1, 5), pad=torch.tensor([5, 0]), mode="reflect")


def test_a_mean_of_whole_numbers_is_cut() -> None:
    x = torch.tensor([[1, 2, 2], [-1, -2, -2], [2**30 + 1, 2**30 + 1, 2**30 + 1]], dtype=torch.int32)
    found = computed("reduce_mean", x=x, axes=torch.tensor([1]))
    assert found.to(torch.int32).tolist() == [1, -1, 2**30 + 1]
