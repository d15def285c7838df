import zipfile

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from edgewright.artifact import Format
from edgewright.errors import InputError
from edgewright.intake import detect_format


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_pickle_is_recognised_whatever_its_name(tmp_path, protocol):
    import pickle

    path = tmp_path / "model.bin"
    path.write_bytes(pickle.dumps(LogisticRegression(), protocol=protocol))
    assert detect_format(path) is Format.SKLEARN


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_a_joblib_file_is_recognised_compressed_or_not(tmp_path, compress):
    path = tmp_path / "model.joblib"
    joblib.dump(LogisticRegression(), path, compress=compress)
    assert detect_format(path) is Format.SKLEARN


def test_an_onnx_model_is_recognised(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]))
    onnx.save(model, tmp_path / "model.onnx")
    assert detect_format(tmp_path / "model.onnx") is Format.ONNX


def test_a_torch_program_is_recognised(digits_pt2):
    assert detect_format(digits_pt2) is Format.PT2


@pytest.mark.parametrize("name", ["saved_model.pb"])
def test_a_saved_model_folder_is_recognised(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x08\x01")
    assert detect_format(tmp_path) is Format.SAVED_MODEL


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello, world", "unknown format"),
        (b"\x80\x05\x95\x10\x00\x00", "truncated pickle"),
        (b"PK\x03\x04 but then nothing of an archive", "damaged archive"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        detect_format(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        detect_format(tmp_path / "nothing.pkl")


def test_a_truncated_torch_program_is_refused(tmp_path, digits_pt2):
    path = tmp_path / "half.pt2"
    path.write_bytes(digits_pt2.read_bytes()[:-400])
    with pytest.raises(InputError, match="damaged archive"):
        detect_format(path)


def test_weights_without_a_program_say_what_to_write(tmp_path):
    import torch

    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"state dict.*factory:"):
        detect_format(tmp_path / "weights.pt")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", np.zeros(80 << 20, np.uint8).tobytes())
    with pytest.raises(InputError, match="when unpacked"):
        detect_format(path)


def test_an_entry_that_leaves_the_archive_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../etc/passwd", "root")
    with pytest.raises(InputError, match="outside the archive"):
        detect_format(path)


def test_an_entry_whose_check_sum_does_not_fit_is_refused(tmp_path):
    from edgewright.intake.keras_guard import inspect_keras_file

    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", '{"class_name": "Sequential"}')
        archive.writestr("metadata.json", "{}")
    path.write_bytes(path.read_bytes().replace(b"Sequential", b"Sequentiel"))
    with pytest.raises(InputError, match="damaged archive"):
        inspect_keras_file(path)
