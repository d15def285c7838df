"""Files that are not what their name says, or are damaged: one line that says what was found, and nothing hangs."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgewright.errors import EdgewrightError
from edgewright.pipeline.inspection import describe_path


def text(path: Path) -> None:
    path.write_text("hello, this is text\n" * 10)


def tape(path: Path) -> None:
    text(path.with_name("inside.txt"))
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_name("inside.txt"), "inside.txt")


def cut_program(path: Path) -> None:
    import torch

    torch.export.save(torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(2, 2),)), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_onnx(path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), path)
    path.write_bytes(path.read_bytes()[:-9])


def nested(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text("[" * 100_000)


CASES: list[tuple[str, Callable[[Path], object], str]] = [
    ("text.npz", text, "unknown format (text that starts with 'hello, this is text')"),
    ("rows.npz", lambda path: np.savez(path, x=np.zeros(3)), "arrays of numpy (x.npy), as --data takes"),
    ("tape.keras", tape, "unknown format (a tar archive)"),
    ("cut.pt2", cut_program, "a truncated or damaged archive"),
    ("cut.onnx", cut_onnx, "not a readable ONNX model: truncated or damaged"),
    ("empty.tflite", lambda path: path.touch(), "the file is empty"),
    ("short.tflite", lambda path: path.write_bytes(b"\x1c\0\0\0TFL3"), "it refers to what lies outside its 8 bytes"),
    ("wild.tflite", lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 99), "outside its 107 bytes"),
    ("folder", lambda path: path.mkdir(), "a folder without saved_model.pb"),
    ("tabs.yaml", lambda path: path.write_text('{\n\t"factory": "a:b"\n}'), "line 2: a tab, where YAML takes spaces"),
    ("latin.yaml", lambda path: path.write_bytes(b"factory: \xe9"), "not UTF-8 text (byte 0xe9 at 9)"),
    ("cut.joblib", lambda path: path.write_bytes(b"\x78\x9czzzz"), "damaged or not readable by this scikit-learn: "),
    ("pipe.onnx", os.mkfifo, "a pipe, a socket or a device, and no file"),
    ("nested", nested, "not valid JSON: nested too deeply"),
]
RAW = ("Error", "struct", "unpack", "codec", "recursion", "ModelProto", "bad number", "0x7f")


@pytest.mark.parametrize(("name", "make", "said"), CASES, ids=[case[0] for case in CASES])
def test_what_cannot_be_looked_into_is_one_clear_line(
    tmp_path: Path, name: str, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(EdgewrightError) as error:
        describe_path(tmp_path / name)
    told = str(error.value)
    assert said in told
    assert name in told
    assert "\n" not in told
    assert not any(word in told for word in RAW)


def test_a_function_that_makes_a_model_is_named_and_not_called(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("factory: nowhere:net\ninputs: {x: [3]}\n")
    with pytest.raises(EdgewrightError, match=r"names a function, nowhere:net, which is not called here; deploy it"):
        describe_path(tmp_path / "m.yaml")
