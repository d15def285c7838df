import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest

from edgewright.errors import InputError, UntrustedModelError
from edgewright.intake.pt2_guard import _is_operation, _is_size_expression, inspect_program


class Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def changed(source: Path, target: Path, leaf: str, change) -> Path:
    """A copy of an archive with one entry replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(leaf) else content)
    return target


def test_an_honest_program_passes(digits_pt2):
    inspect_program(digits_pt2)


def test_a_pickle_among_the_sample_inputs_is_refused_and_has_not_run(tmp_path, digits_pt2):
    import torch

    proof, buffer = tmp_path / "proof", io.BytesIO()
    torch.save((Touches(proof),), buffer)
    path = changed(digits_pt2, tmp_path / "m.pt2", "sample_inputs/model.pt", lambda _: buffer.getvalue())
    with pytest.raises(UntrustedModelError, match="sample_inputs"):
        inspect_program(path)
    assert not proof.exists()


def test_pickled_weights_are_refused_unless_they_are_tensors(tmp_path, digits_pt2):
    def pickle_first(content):
        config = json.loads(content)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()

    path = changed(digits_pt2, tmp_path / "a.pt2", "model_weights_config.json", pickle_first)
    path = changed(path, tmp_path / "b.pt2", "weight_0", lambda _: pickle.dumps(Touches(tmp_path / "proof")))
    with pytest.raises(UntrustedModelError, match="weight_0"):
        inspect_program(path)


@pytest.mark.parametrize(
    "target",
    [
        *("torch.hub.load", "torch.load", "torch.ops.load_library", "_operator.attrgetter"),
        # Files, processes, memory as it is, the state of the process, and a name of which operands pick an overload.
        *("torch.ops.aten.save.default", "torch.ops.aten.from_file.default", "torch.ops.aten.from_file"),
        *("torch.ops.aten.set_.source_Storage", "torch.ops.aten.set_.source_Tensor", "torch.ops.aten.wait.default"),
        *("torch.ops.aten._sparse_coo_tensor_unsafe.default", "torch.ops.aten._nested_view_from_buffer.default"),
        *("torch.ops.aten._reshape_alias.default", "torch.ops.aten.warn.default", "torch.ops.aten.manual_seed.default"),
        *("torch.ops.aten.set_data.default", "torch.ops.aten.add", "torch.ops.aten.__class__.mro"),
        "torch.ops.aten.no_such_operation.default",
    ],
)
def test_functions_other_than_tensor_operators_are_refused(tmp_path, digits_pt2, target):
    path = changed(
        digits_pt2,
        tmp_path / "m.pt2",
        "models/model.json",
        lambda c: c.replace(b"torch.ops.aten.relu.default", target.encode(), 1),
    )
    with pytest.raises(UntrustedModelError, match=target):
        inspect_program(path)


@pytest.mark.parametrize(
    "source",
    [
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "s0.__class__",
        "eval('1')",
        "10**10**10",
        "Pow(10, Pow(10, 10))",
        "((2*s0)**16)**16",
        "s0**99",
        "s0**s1",
        "1 << 99999999999",
        "Pow(Integer(10), Integer(16))",
    ],
)
def test_python_in_a_size_is_refused(tmp_path, digits_pt2, source):
    def poison(content):
        text = json.loads(content)
        values = text["graph_module"]["graph"]["tensor_values"]
        size = next(s["as_expr"] for v in values.values() for s in v["sizes"] if "as_expr" in s)
        size["expr_str"] = source
        return json.dumps(text).encode()

    path = changed(digits_pt2, tmp_path / "m.pt2", "models/model.json", poison)
    with pytest.raises(UntrustedModelError, match="not arithmetic"):
        inspect_program(path)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path, digits_pt2):
    with zipfile.ZipFile(digits_pt2) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("weights/weight_0"))
        weights = archive.read(entry)
    content = bytearray(digits_pt2.read_bytes())
    position = content.find(weights, entry.header_offset)
    content[position + 3] ^= 1
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(InputError, match="check sum"):
        inspect_program(tmp_path / "m.pt2")


def test_compiled_code_is_refused(tmp_path, digits_pt2):
    path = tmp_path / "m.pt2"
    path.write_bytes(digits_pt2.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("digits_cnn/data/aotinductor/model/x.so", b"\x7fELF")
    with pytest.raises(UntrustedModelError, match="compiled code"):
        inspect_program(path)


def test_json_of_another_shape_is_damage(tmp_path):
    """Found by `make fuzz`."""
    for text in ("true", "[]", '{"config": true}', '{"config": {"w": 3}}', '{"config": {"w": {"path_name": 3}}}'):
        with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
            archive.writestr("m/data/weights/model_weights_config.json", text)
        with pytest.raises(InputError, match="damaged"):
            inspect_program(tmp_path / "m.pt2")


@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x02h\x07.", b"\x80\x02t.", b"\x80\x02(0.", b"\x80\x02N0R."])
def test_a_pickle_that_lacks_what_it_takes_is_damage(tmp_path, content):
    """Found by `make fuzz`: torch's unpickler lets any error of its own pass."""
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("m/data/weights/weight_0.pt", content)
    with pytest.raises((InputError, UntrustedModelError), match=r"weight_0\.pt is"):
        inspect_program(tmp_path / "m.pt2")


@pytest.mark.parametrize(
    "size",
    [
        "s0**2",
        "4*s0 + 1",
        "Pow(Symbol('s31', positive=True, integer=True), Integer(2))",
        "Pow(s0, -1)",
        "Max(1, s0 - 2)",
    ],
)
def test_sizes_that_are_computed_pass(size):
    assert _is_size_expression(size)


@pytest.mark.parametrize(
    "name",
    [
        *("add.Tensor", "add_.Tensor", "_to_copy.default", "_assert_scalar.default", "lstm.input", "rand.default"),
        *("_convolution.default", "index_put_.default", "sym_size.int", "upsample_nearest2d.vec"),
    ],
)
def test_operations_on_tensors_pass(name):
    assert _is_operation(f"torch.ops.aten.{name}")
