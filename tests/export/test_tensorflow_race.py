"""An unmodified Keras source: TensorFlow's own converter beside ours, and the faster of two right files is kept."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.artifact import Artifact, Format, ImportedModel, Precision
from edgewright.child import ChildRun
from edgewright.data import DataSpec
from edgewright.export import android, export, tflite
from edgewright.intake import take_in
from edgewright.profile import Platform
from edgewright.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")


def other_file(digits: Any, folder: Path, *, wrong: bool = False) -> Artifact:
    """The same network in a file of other bytes; or with a bias lost on the way."""
    path = Path(
        shutil.copy(digits.exported(Platform.ANDROID, Precision.FLOAT32).artifact.path, folder / "other.tflite")
    )
    model = tflite.load(path)
    model.description = b"by another converter"
    if wrong:
        dense = next(o for o in model.subgraphs[0].operators if tflite.operator_name(model, o) == "FULLY_CONNECTED")
        bias = model.buffers[model.subgraphs[0].tensors[dense.inputs[2]].buffer]
        bias.data = np.zeros(len(bias.data), np.uint8)
    tflite.save(model, path)
    return Store(folder / "store").put(path, Format.TFLITE)


@pytest.fixture
def keras(digits: Any) -> ImportedModel:
    source = digits.model.source.model_copy(update={"format": Format.KERAS})
    return digits.model.model_copy(update={"source": source})


@pytest.mark.parametrize(
    ("theirs_ms", "kept"), [(1.0, "other"), pytest.param(1.99, "ours", marks=pytest.mark.slow), (3.0, "ours")]
)
def test_the_clearly_faster_file_is_kept_and_both_times_are_told(
    digits: Any, keras: ImportedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs_ms: float, kept: str
) -> None:
    other = other_file(digits, tmp_path)
    monkeypatch.setattr(android, "_by_tensorflow", lambda *_: other)
    monkeypatch.setattr(android, "run_in_child", lambda *_, **__: ChildRun([2.0, theirs_ms], 0.1, None))
    store = Store(tmp_path / "exports")
    exported = export(keras, digits.dataset, Platform.ANDROID, Precision.FLOAT32, store)
    assert (exported.artifact.digest == other.digest) == (kept == "other")
    assert any(f"{theirs_ms:.3f} ms by TensorFlow's converter, 2.000 ms by way of torch" in n for n in exported.notes)
    # Decided once: times that would decide otherwise are not taken again.
    monkeypatch.setattr(android, "run_in_child", lambda *_, **__: pytest.fail("raced again"))
    again = export(keras, digits.dataset, Platform.ANDROID, Precision.FLOAT32, store)
    assert again.artifact.digest == exported.artifact.digest


def test_a_faster_file_that_answers_otherwise_is_not_kept(
    digits: Any, keras: ImportedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = other_file(digits, tmp_path, wrong=True)
    monkeypatch.setattr(android, "_by_tensorflow", lambda *_: wrong)
    monkeypatch.setattr(android, "run_in_child", lambda *_, **__: pytest.fail("a wrong file is not timed"))
    exported = export(keras, digits.dataset, Platform.ANDROID, Precision.FLOAT32, digits.store)
    assert exported.artifact.digest == digits.exported(Platform.ANDROID, Precision.FLOAT32).artifact.digest
    assert any(note.startswith("TensorFlow's own converter was not used:") for note in exported.notes)


def test_a_network_that_was_changed_is_not_raced(
    digits: Any, keras: ImportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(android, "_by_tensorflow", lambda *_: pytest.fail("the source is not what is exported"))
    changed = keras.model_copy(update={"graph": keras.graph.model_copy(update={"parent": "changed since"})})
    exported = export(changed, digits.dataset, Platform.ANDROID, Precision.FLOAT32, digits.store)
    assert not any("TensorFlow" in note for note in exported.notes)


_KERAS = """
import sys, numpy as np, keras
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    layers.Input((8, 8, 1)), layers.Conv2D(8, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
    layers.Flatten(), layers.Dense(10, activation="softmax"),
])
model.save(sys.argv[1])
"""


@pytest.mark.slow
def test_a_real_keras_file_is_raced(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KERAS, str(tmp_path / "net.keras")], check=True, capture_output=True)
    rows = np.random.default_rng(0).random((80, 8, 8, 1), dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=rows, y=np.arange(80) % 10)
    store = Store(tmp_path / "store")
    taken = take_in(tmp_path / "net.keras", DataSpec(path=tmp_path / "data.npz"), store)
    exported = export(taken.model, taken.dataset, Platform.ANDROID, Precision.FLOAT32, store)
    assert any(note.startswith("kept the ") and "by way of torch" in note for note in exported.notes)
