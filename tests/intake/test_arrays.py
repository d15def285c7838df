"""Rows that an input's dtype cannot hold are refused, not cut or wrapped round."""

import os
import zipfile

import numpy as np
import pytest

from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.intake.answers import Answers
from edgewright.intake.arrays import read_arrays
from edgewright.intake.tables import read_table
from edgewright_runtime.bundle.manifest import Preprocessing, TensorSpec
from edgewright_runtime.predict.encoding import encode


def read(folder, rows, dtype, **spec):
    path = folder / "data.npz"
    np.savez(path, x=np.asarray(rows), y=np.zeros(len(rows), np.int64))
    tensor = TensorSpec("ids", (-1, 1), dtype)
    return read_arrays(DataSpec(path=path, **spec), (tensor,), lambda y: Answers(y, None)).inputs["ids"][:, 0]


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (2.5, "int64", "row 3 .* holds 2.5, which int64 cannot hold"),
        (np.inf, "int32", "row 3 .* holds inf, which int32"),
        (300, "uint8", "row 3 .* holds 300, which uint8"),
        (-1, "uint8", "row 3 .* holds -1, which uint8"),
        (1 << 40, "int32", "row 3 .* which int32"),
        (2.5, "bool", "row 3 .* holds 2.5, which bool cannot hold: give 0 and 1"),
        (1e6, "float16", r"row 3 .* holds 1e\+06, which float16 cannot hold: give finite numbers"),
        (1e300, "float32", r"row 3 .* holds 1e\+300, which float32"),
    ],
)
def test_what_an_input_cannot_hold_is_refused(value, dtype, said, tmp_path):
    rows = [[1], [0], [1], [value], *([[1]] * 16)]
    with pytest.raises(InputError, match=said):
        read(tmp_path, rows, dtype)


def test_what_a_scale_makes_infinite_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"row 0 of 'x' .* holds 1e\+38, which float32 cannot hold with scale 100 "):
        read(tmp_path, [[1e38]] * 20, "float32", scale=100)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_infinite_already_stays_so(dtype, tmp_path):
    assert np.isinf(read(tmp_path, [[np.inf]] * 20, dtype)).all()


def test_large_whole_numbers_keep_their_digits(tmp_path):
    """As float32 2^24 + 1 is 2^24."""
    assert read(tmp_path, [[2**24 + 1]] * 20, "int64").tolist() == [2**24 + 1] * 20


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
@pytest.mark.parametrize("choice", [{"scale": 2.0}, {"mean": 1.0}])
def test_a_scale_that_no_input_takes_is_refused(dtype, choice, tmp_path):
    with pytest.raises(InputError, match=rf"are for real inputs, and the model has 'ids' \({dtype}\): .* leave scale"):
        read(tmp_path, [[1]] * 20, dtype, **choice)


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", "float64"])
def test_inputs_of_several_kinds_are_scaled_as_on_the_device(kind, tmp_path):
    raw = {"image": np.arange(40, dtype=np.uint8).reshape(20, 2), "ids": np.arange(20).reshape(20, 1) % 2}
    np.savez(tmp_path / "data.npz", **{f"x.{name}": rows for name, rows in raw.items()}, y=np.zeros(20, np.int64))
    inputs = (TensorSpec("image", (-1, 2), "float32"), TensorSpec("ids", (-1, 1), kind))
    spec = DataSpec(path=tmp_path / "data.npz", scale=1 / 3, mean=0.5)
    taken = read_arrays(spec, inputs, lambda y: Answers(y, None))
    on_device = encode(raw, inputs, Preprocessing(scale=spec.scale, mean=spec.mean))
    for name, rows in on_device.items():
        np.testing.assert_array_equal(taken.inputs[name], rows)
        assert taken.inputs[name].dtype == rows.dtype


def test_numbers_as_flags_are_taken(tmp_path):
    assert read(tmp_path, [[0.0], [1.0]] * 10, "bool").tolist() == [False, True] * 10


def pair(folder, task=None, **arrays):
    path = folder / "data.npz"
    np.savez(path, **arrays)
    tensors = (TensorSpec("a", (-1, 1), "int64"), TensorSpec("b", (-1, 1), "float32"))
    return read_arrays(DataSpec(path=path, task=task), tensors, lambda y: Answers(y, None, known=task is None))


def column(count, start=0):
    return np.arange(start, start + count)[:, None]


@pytest.mark.parametrize("task", ["none", None])
def test_inputs_with_other_numbers_of_rows_are_refused(task, tmp_path):
    """Row n of one would otherwise be paired with another row of the other."""
    arrays = {"x_train.a": column(20), "x_train.b": column(23), "x_test.a": column(10), "x_test.b": column(10)}
    arrays |= {} if task else {"y_train": np.zeros(20), "y_test": np.zeros(10)}
    with pytest.raises(InputError, match=r"data\.npz: 20 rows of 'x_train\.a' but 23 of 'x_train\.b'; each row"):
        pair(tmp_path, task, **arrays)
    with pytest.raises(InputError, match=r"200 rows of 'x\.a' but 230 of 'x\.b'"):
        pair(tmp_path, task, **{"x.a": column(200), "x.b": column(230)}, y=np.zeros(200))


def test_answers_with_another_number_of_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"20 rows of 'x\.a' but 19 of 'y'"):
        pair(tmp_path, **{"x.a": column(20), "x.b": column(20)}, y=np.zeros(19))


@pytest.mark.parametrize("empty", ["x_train.a", "x_test.b", "y_test"])
def test_an_array_of_no_rows_is_refused(empty, tmp_path):
    names = ("x_train.a", "x_train.b", "x_test.a", "x_test.b")
    arrays = {name: column(20) for name in names} | {"y_train": np.zeros(20), "y_test": np.zeros(20)}
    with pytest.raises(InputError, match=rf"array '{empty}' has no rows"):
        pair(tmp_path, **{**arrays, empty: arrays[empty][:0]})


def test_training_and_test_rows_of_unlike_dtypes_and_shapes_are_taken(tmp_path):
    """Signed and unsigned numbers together are float64 to numpy, which does not hold 2^60 + 1."""
    large = 2**60 + 1
    arrays = {"x_train.a": column(20, large), "x_test.a": column(10, large).astype(np.uint64)[:, 0]}
    arrays |= {"x_train.b": column(20), "x_test.b": column(10)[:, 0]}
    samples = pair(tmp_path, "none", **arrays)
    assert samples.inputs["a"][:, 0].tolist() == [*range(large, large + 20), *range(large, large + 10)]
    assert samples.inputs["b"].shape == (30, 1)


def test_whole_numbers_of_another_dtype_are_taken(tmp_path):
    found = read(tmp_path, [[float(i)] for i in range(20)], "int32")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.arange(20))


@pytest.mark.parametrize(
    ("found", "put"),
    [
        (b"'descr': '<f8'", b"'descr': '<f8',("),  # numpy's parser: TokenError
        (b"\x93NUMPY", b"\x93NUMBY"),  # no array at all: bytes
        (b"(40, 1)", b"(-4, 1)"),
        (b"'<f8'", b"'|O' "),
    ],
)
def test_a_damaged_array_is_one_clear_error(found, put, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((40, 1)), y=np.zeros(40, np.int64))
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert found in entries["x.npy"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content.replace(found, put) if name == "x.npy" else content)
    with pytest.raises(InputError, match=r"data\.npz") as e:
        read_arrays(DataSpec(path=path), (TensorSpec("ids", (-1, 1), "float64"),), lambda y: Answers(y, None))
    assert "\n" not in str(e.value)


def test_missing_answers_say_how_to_name_them_or_do_without(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((20, 1)), labels=np.zeros(20, np.int64))
    tensor = TensorSpec("ids", (-1, 1), "float32")
    with pytest.raises(InputError, match=r"no array 'y'; it holds labels, x\. .*target, or write task: none"):
        read_arrays(DataSpec(path=path), (tensor,), lambda y: Answers(y, None))


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_data_that_is_no_plain_file_is_not_waited_for(suffix, tmp_path):
    path = tmp_path / f"data{suffix}"
    os.mkfifo(path)
    with pytest.raises(InputError, match="a folder, a pipe or a device, and no file"):
        rows(DataSpec(path=path, target="y"))
    with pytest.raises(InputError, match="File name too long"):
        rows(DataSpec(path=tmp_path / f"{'a' * 300}{suffix}", target="y"))


def rows(spec):
    if spec.path.suffix == ".npz":
        return read_arrays(spec, (TensorSpec("ids", (-1, 1), "float64"),), lambda y: Answers(y, None))
    return read_table(spec)
