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
from edgewright_runtime.bundle.manifest import TensorSpec


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
    ],
)
def test_what_a_whole_number_input_cannot_hold_is_refused(value, dtype, said, tmp_path):
    rows = [[1], [2], [3], [value], *([[4]] * 16)]
    with pytest.raises(InputError, match=said):
        read(tmp_path, rows, dtype)


def test_a_scale_that_leaves_fractions_is_refused_for_whole_numbers(tmp_path):
    with pytest.raises(InputError, match=r"holds 0.5, which int64 .* another scale"):
        read(tmp_path, [[1]] * 20, "int64", scale=0.5)


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
