import os
import stat

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError
from edgewright.intake import child, companion_files, preflight, torch_graph

pytestmark = pytest.mark.filterwarnings("ignore")
WEIGHT = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)


def network(shape=("n", 8, 8), opset=18, extra_output=False):
    x = helper.make_tensor_value_info("image:0", TensorProto.FLOAT, list(shape))
    y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Flatten", ["image:0"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    outputs = [y]
    if extra_output:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
        outputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, None))
    graph = helper.make_graph(nodes, "g", [x], outputs, [numpy_helper.from_array(WEIGHT, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def taken(path, spec, folder):
    return child.take_in(path, spec, folder, "model")


def refused(path, spec, words, kind=InputError):
    with pytest.raises(kind, match=words) as error:
        child.check(path, spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("opset", [7, 11, 18, 22, onnx.defs.onnx_opset_version()])
def test_old_and_new_operator_sets(tmp_path, digits_npz, opset):
    onnx.save(network(opset=opset), tmp_path / "m.onnx")
    intake = taken(tmp_path / "m.onnx", DataSpec(path=digits_npz), tmp_path / "s")
    arrays = np.load(intake.dataset.artifact.path)
    got = torch_graph.load(intake.model.graph.path)(torch.from_numpy(arrays["test.x.image_0"]))
    np.testing.assert_allclose(got.detach().numpy(), arrays["test.reference.scores"], rtol=1e-5, atol=1e-3)
    assert intake.model.inputs[0].shape == (-1, 8, 8)


def test_a_label_beside_the_scores_is_left_out_and_said_so(tmp_path, digits_npz):
    onnx.save(network(extra_output=True), tmp_path / "m.onnx")
    intake = taken(tmp_path / "m.onnx", DataSpec(path=digits_npz), tmp_path / "s")
    assert [o.name for o in intake.model.outputs] == ["scores"]
    assert any("label" in note for note in intake.model.notes)


def test_free_sizes_are_asked_for_by_name(tmp_path, digits_npz):
    onnx.save(network(("n", "height", "width")), tmp_path / "m.onnx")
    refused(tmp_path / "m.onnx", DataSpec(path=digits_npz), r"axis 1 has a free size \(height\).*--shape image_0=1")
    spec = DataSpec(path=digits_npz, shapes={"image:0": (1, 8, 8)})
    assert taken(tmp_path / "m.onnx", spec, tmp_path / "s").model.graph is not None
    refused(tmp_path / "m.onnx", DataSpec(path=digits_npz, shapes={"picture": (1, 8, 8)}), "no such input")


def test_an_opset_older_than_seven_is_refused(tmp_path, digits_npz):
    onnx.save(network(opset=6), tmp_path / "m.onnx")
    refused(tmp_path / "m.onnx", DataSpec(path=digits_npz), "opset 6", UnsupportedError)


def external(folder, location):
    model = network()
    (tensor,) = model.graph.initializer
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(len(data)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx", data


def test_external_data_is_brought_inside(tmp_path, digits_npz):
    path, data = external(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(data)
    intake = taken(path, DataSpec(path=digits_npz), tmp_path / "s")
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(intake.model.onnx.path).graph.initializer[0]), WEIGHT)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path, digits_npz, location):
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    inside = tmp_path / "model"
    inside.mkdir()
    path, _ = external(inside, location)
    refused(path, DataSpec(path=digits_npz), "outside the model's folder")


@pytest.mark.parametrize("name", [b"a\0b", b"\xff\xfe"])
def test_external_data_in_a_file_whose_name_is_no_text_is_refused(tmp_path, digits_npz, name):
    path, _ = external(tmp_path, "weights.bin")
    path.write_bytes(path.read_bytes().replace(b"weights.bin", name.ljust(11, b"x")))
    refused(path, DataSpec(path=digits_npz), "is not text|no readable ONNX model")


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("a" * 300, "'a{79}.' cannot be read: File name too long"),
        ("/".join(["abc"] * 2000), "cannot be read: File name too long"),
        ("pipe", "'pipe' cannot be read: a folder, a pipe or a device, and no file"),
        ("device", "'device' cannot be read: a folder, a pipe or a device, and no file"),
        ("folder", "'folder' cannot be read: a folder, a pipe or a device, and no file"),
        ("m.onnx/x", "'m.onnx/x' cannot be read: Not a directory"),
        ("loop", "'loop' cannot be read: a link that leads to itself"),
        ("link", "'link', outside the model's folder"),
    ],
    ids=lambda text: text[:12],
)
def test_external_data_that_no_plain_file_holds_is_refused_in_words_of_ours(tmp_path, digits_npz, location, said):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("/dev/zero")
    if location == "device":
        try:
            os.mknod(tmp_path / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("only root may make a device")
    path, _ = external(tmp_path, location)
    refused(path, DataSpec(path=digits_npz), said)
    with pytest.raises(InputError, match=said):
        companion_files(path)


@pytest.mark.parametrize("key", ["offset", "length"])
def test_external_data_of_a_negative_place_or_size_is_refused(tmp_path, digits_npz, key):
    path, data = external(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(data)
    model = onnx.load(path, load_external_data=False)
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = key, "-5"
    onnx.save(model, path)
    refused(path, DataSpec(path=digits_npz), "damaged$")
    with pytest.raises(InputError, match=r"damaged$"):
        companion_files(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path, digits_npz):
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "weights.bin").symlink_to(tmp_path / "secret.bin")
    path, _ = external(inside, "weights.bin")
    refused(path, DataSpec(path=digits_npz), "outside the model's folder")


def test_external_data_that_is_missing_or_short_is_refused(tmp_path, digits_npz):
    path, data = external(tmp_path, "weights.bin")
    refused(path, DataSpec(path=digits_npz), "missing")
    (tmp_path / "weights.bin").write_bytes(data[:-1])
    refused(path, DataSpec(path=digits_npz), "truncated")


def test_a_model_cut_off_anywhere_is_an_input_error(tmp_path, digits_npz):
    content = network().SerializeToString()
    path = tmp_path / "m.onnx"
    for end in range(0, len(content) - 1, 97):
        path.write_bytes(content[:end])
        with pytest.raises((InputError, UnsupportedError)):
            child.check(path, DataSpec(path=digits_npz))


def test_a_damaged_model_does_not_take_this_process_with_it(tmp_path, digits_npz):
    random, content = np.random.default_rng(0), bytearray(network().SerializeToString())
    for position in random.integers(0, 200, 40):
        content[position] = random.integers(0, 256)
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError):
        preflight(tmp_path / "m.onnx", DataSpec(path=digits_npz))


def test_rows_that_the_source_answers_with_no_number_are_counted_in_a_note(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in ("logs", "doubled")]
    nodes = [helper.make_node("Log", ["x"], ["logs"]), helper.make_node("Add", ["x", "x"], ["doubled"])]
    graph = helper.make_graph(nodes, "g", [x], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "m.onnx")
    test = np.ones((20, 2), np.float32)
    test[:3, 1], test[3, 0] = -1, 0  # NaN and minus infinity
    rows = {"x_train": np.ones((40, 2), np.float32), "y_train": np.arange(40) % 2, "x_test": test}
    np.savez(tmp_path / "d.npz", **rows, y_test=np.arange(20) % 2)
    notes = taken(tmp_path / "m.onnx", DataSpec(path=tmp_path / "d.npz"), tmp_path / "s").model.notes
    said = [note for note in notes if "NaN or infinity" in note]
    assert [note[:92] for note in said] == [
        "the source itself answers NaN or infinity in 4 of 20 test rows (output 'logs'): a value coun"
    ]
