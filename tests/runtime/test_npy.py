"""Arrays of others: nothing is unpickled, and no more memory is taken than the file's own bytes."""

import io
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from edgewright_runtime.npy import Npz, read_npy

X = np.arange(80, dtype=np.float32).reshape(40, 2)


def npy(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **options)
    return stream.getvalue()


def headed(descr="'<f4'", shape="(40, 2)", fortran="False", content=b"\0" * 320):
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + content


class Proof:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


HOSTILE = {
    "records": (npy(np.zeros(40, [("a", "f4"), ("b", "i4")])), "neither numbers nor texts"),
    "records with names of their own": (npy(np.zeros(40, [("\u03b1", "f4")]), version=(3, 0)), "versions 1.0 and 2.0"),
    "no bytes an element": (headed("'|V0'"), "neither numbers nor texts"),
    "no letters": (headed("'<U0'", "(100000000000,)", content=b""), "neither numbers nor texts"),
    "800 GB": (headed(shape="(100000000000, 2)"), "its header says 800000000000 bytes, it holds 320"),
    "more than can be counted": (headed(shape="(9223372036854775807, 4)"), "it holds 320"),
    "too few": (headed(shape="(39, 2)"), "its header says 312 bytes, it holds 320"),
    "negative": (headed(shape="(-40, -2)"), r"says the shape \(-40, -2\)"),
    "a call": (headed("__import__('os').system('false')"), "header is none of numpy's"),
    "brackets": (headed("[" * 3000 + "]" * 3000), "header is none of numpy's"),
    "digits": (headed(shape=f"({'9' * 5000},)"), "header is none of numpy's"),
    "a long header": (b"\x93NUMPY\x02\0" + struct.pack("<I", 2**32 - 1) + b" " * (64 << 20), "has 4294967295 bytes"),
    "a header that ends": (npy(X)[:9], "ends in its header"),
    "another magic": (b"NUMPY" + npy(X), "not an array of numpy's format"),
    "nothing": (b"", "not an array of numpy's format"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_array_that_is_not_what_it_says_is_refused_before_it_takes_memory(name, tmp_path):
    content, said = HOSTILE[name]
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=said):
        read_npy(tmp_path / "x.npy")
    with Npz(tmp_path / "x.npz") as arrays, pytest.raises(ValueError, match=said):
        arrays["x"]
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_objects_are_not_unpickled(tmp_path):
    made = np.array([Proof(str(tmp_path / "proof"))], object)
    (tmp_path / "x.npy").write_bytes(npy(made, allow_pickle=True))
    (tmp_path / "y.npy").write_bytes(pickle.dumps(made))
    for name in ("x", "y"):
        with pytest.raises(ValueError, match=r"Python objects, which are a program|not an array"):
            read_npy(tmp_path / f"{name}.npy")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("second", ["x.npy", "x"])
def test_two_arrays_of_one_name_are_refused(second, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", npy(X))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile itself finds it odd
            archive.writestr(second, npy(X + 1))
    with pytest.raises(ValueError, match="two arrays are called 'x'"):
        Npz(tmp_path / "x.npz")


def test_archive_that_unpacks_to_more_than_the_machine_has_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1 << 20, 4)))
    monkeypatch.setattr(os, "sysconf", lambda _: 4096)  # 16 MiB
    with Npz(tmp_path / "x.npz") as arrays, pytest.raises(ValueError, match="more than half of this machine's memory"):
        arrays["x"]


def test_directory_that_says_another_size_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=X)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24  # the size in the directory, APPNOTE 4.3.12
    content[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    with Npz(path) as arrays, pytest.raises(ValueError, match="it holds 4294967"):
        arrays["x"]


@pytest.mark.parametrize("array", [
    X, X.astype(">f8"), np.asfortranarray(X), X.T, np.array(3.5), np.zeros((0, 5)), np.array(["a", "bcd"]),
    np.array([b"a"]), X > 3, np.zeros((2, 0, 3), np.int8), X.astype(complex), X.astype("M8[s]"), np.float16(X),
], ids=lambda a: f"{a.dtype}{a.shape}")  # fmt: skip
def test_arrays_of_numpy_come_through(array, tmp_path):
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", x=array, y=X)
    with Npz(tmp_path / "x.npz") as arrays:
        assert arrays.files == ["x", "y"]
        found = arrays["x"]
    for each in (found, read_npy(tmp_path / "x.npy")):
        np.testing.assert_array_equal(each, array)
        assert each.dtype == array.dtype


def test_version_2_is_read(tmp_path):
    (tmp_path / "x.npy").write_bytes(npy(X, version=(2, 0)))
    np.testing.assert_array_equal(read_npy(tmp_path / "x.npy"), X)
