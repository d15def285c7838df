"""The five attacks that once ran code or wrote files while a model was looked into.

Each is a file of its own, opened by the code that opens every source, in the child that does so: with its guard
switched off nothing is written outside, and with it on the file is refused by what is wrong with it. Outside the
sandbox each one writes, so that what was tried is the real thing.
"""

import io
import json
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from edgewright.artifact import Format
from edgewright.child import run_in_child
from edgewright.data import DataSpec
from edgewright.errors import EdgewrightError, UntrustedModelError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confined by Landlock and seccomp, which Linux has")


def make_stack(path: str, proof: str) -> None:
    """(a) A scorer of scikit-learn that calls a stack, which calls a method of an array by the name it holds."""
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics._scorer import _PassthroughScorer

    from tests.intake.test_pickle_guard import by_hand, stacked

    stack = stacked("tofile")
    stack.estimators_ = [np.zeros(1)]  # compared with a word, an array of one is true or false
    by_hand(Path(path), _PassthroughScorer(LinearRegression()), (stack, proof, [0.0]), pickle.REDUCE)


class _Writing:
    def __init__(self, proof: str) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return eval, (f"__import__('pathlib').Path({self.proof!r}).write_text('run')",)


def make_program(path: str, proof: str, *, hides: str) -> None:
    """(b) Two entries of one name, or of two that differ in case alone: a guard reads one of them, torch the other."""
    import torch

    torch.export.save(torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(2, 2),)), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = io.BytesIO()
    torch.save(_Writing(proof), pickled)
    name = next(n for n in entries if n.endswith("model_weights_config.json"))
    folder, _, leaf = name.rpartition("/")
    hidden = name if hides == "duplicate" else f"{folder}/{leaf.upper()}"
    config = json.loads(entries[name])
    config["config"]["bias"] |= {"use_pickle": True, "path_name": "weight_9"}
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile's own, of a name that stands twice
        for entry, content in entries.items():
            if entry == name:
                archive.writestr(hidden, json.dumps(config))
                archive.writestr(f"{folder}/weight_9", pickled.getvalue())
            archive.writestr(entry, content)


def make_function(path: str, proof: str) -> None:
    """(c) A layer that calls a function of TensorFlow by its name."""
    import h5py  # type: ignore[import-untyped]
    import tensorflow as tf
    import tf_keras

    given = tf_keras.Input((2,), name="given")
    tf_keras.Model(given, tf.math.add(given, 1.0)).save(path)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        layer = next(entry for entry in config["config"]["layers"] if entry["class_name"] == "TFOpLambda")
        layer["config"]["function"] = "io.write_file"
        layer["inbound_nodes"] = [["_CONSTANT_VALUE", -1, proof, {"contents": "run"}]]
        file.attrs["model_config"] = json.dumps(config)


def make_residual(path: str, proof: str) -> None:
    """(d) A wrapper of a recurrent cell whose residual function is bytecode."""
    import tf_keras
    from tf_keras.src.layers.rnn.cell_wrappers import ResidualWrapper

    cell = ResidualWrapper(tf_keras.layers.GRUCell(2), residual_fn=_writing(proof, "i, o", "o"))
    tf_keras.Sequential([tf_keras.Input((3, 2)), tf_keras.layers.RNN(cell)]).save(path)
    Path(proof).unlink(missing_ok=True)  # tracing it ran it


def make_lambda(path: str, proof: str) -> None:
    """(e) Bytecode in what Keras 2 writes beside a graph."""
    import tf_keras

    layer = tf_keras.layers.Lambda(_writing(proof, "x", "x"))
    tf_keras.Sequential([tf_keras.Input((2,)), layer]).save(path, save_format="tf")
    Path(proof).unlink(missing_ok=True)


def _writing(proof: str, taken: str, given: str) -> Callable[..., Any]:
    code = f"lambda {taken}: (__import__('pathlib').Path({proof!r}).write_text('run'), {given})[1]"
    made: Callable[..., Any] = eval(code)  # noqa: S307 - the attack itself
    return made


def make_graph(path: str, proof: str, *, operator: str) -> None:
    """(e) Operators of a graph that write: summaries, and copies for a debugger."""
    import tensorflow as tf

    class Writing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32)])
        def __call__(self, x: "tf.Tensor") -> "tf.Tensor":
            if operator == "summary":
                writer = tf.raw_ops.SummaryWriter(shared_name="w", container="")
                made = tf.raw_ops.CreateSummaryFileWriter(
                    writer=writer, logdir=proof, max_queue=1, flush_millis=1, filename_suffix="x"
                )
                with tf.control_dependencies([made]):
                    return tf.identity(x)
            return tf.raw_ops.DebugIdentityV3(input=x, tensor_name="x:0", debug_urls=[f"file://{proof}"])

    module = Writing()
    tf.saved_model.save(module, path, signatures=module.__call__)


def ask_pickle(path: Path, data: Path) -> str:
    from edgewright.intake import pickle_guard

    def found(module: str, name: str, _: Path) -> Any:
        return getattr(__import__(module, fromlist=[name]), name)

    unguarded = {
        "_permitted": found,
        "_inspected": lambda model, _: model,
        "rebuilding": lambda *_: None,
    }
    with (
        patch.multiple(pickle_guard, **unguarded),
        patch.dict(pickle_guard.GuardedUnpickler.dispatch, pickle_guard._OPCODES),
    ):
        return _asked(path, data)


def ask_program(path: Path, data: Path) -> str:
    from edgewright.intake import archives, torch_source

    with (
        patch.object(archives, "_refuse_ambiguous", lambda *_: None),
        patch.multiple(torch_source, normalized=nullcontext, inspect_program=lambda _: None),
    ):
        return _asked(path, data)


def _asked(path: Path, data: Path) -> str:
    from edgewright.intake.formats import detect_format
    from edgewright.intake.opening import opened

    opened(path, detect_format(path), DataSpec(path=data)).answers()
    return ""


def ask_keras(path: Path, data: Path, kind: Format) -> str:
    """What the child of a Keras source does; its failure."""
    from edgewright.intake import keras_child

    unguarded = {"inspect_keras_file": lambda _: None, "inspect_saved_model": lambda _: None, "normalized": nullcontext}
    with patch.multiple(keras_child, **unguarded):
        legacy = _is_legacy()
        return keras_child.convert(path, kind, DataSpec(path=data), path.parent, legacy=legacy, checking=True).failure


def _is_legacy() -> bool:
    import os

    return os.environ["TF_USE_LEGACY_KERAS"] == "1"


_HDF5, _FOLDER = partial(ask_keras, kind=Format.KERAS), partial(ask_keras, kind=Format.SAVED_MODEL)
_SLOW = pytest.mark.slow
ATTACKS = [
    pytest.param("m.pkl", make_stack, ask_pickle, "_PassthroughScorer", id="stack"),
    pytest.param("m.pt2", partial(make_program, hides="duplicate"), ask_program, "two entries", id="duplicate"),
    pytest.param("m.pt2", partial(make_program, hides="case"), ask_program, "two entries", id="case"),
    pytest.param("m.h5", make_function, _HDF5, r"io\.write_file", id="function", marks=_SLOW),
    pytest.param("m.h5", make_residual, _HDF5, "ResidualWrapper|residual_fn", id="residual", marks=_SLOW),
    pytest.param("saved", make_lambda, _FOLDER, "Lambda", id="lambda", marks=_SLOW),
    pytest.param("saved", partial(make_graph, operator="summary"), _FOLDER, "SummaryWriter", id="summary", marks=_SLOW),
    pytest.param(
        "saved", partial(make_graph, operator="debug"), _FOLDER, "DebugIdentityV3", id="debugger", marks=_SLOW
    ),
]


@contextmanager
def _nothing_new(folder: Path) -> Iterator[None]:
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("name", "make", "ask", "words"), ATTACKS)
def test_a_reported_attack_is_refused_and_without_its_guard_reaches_nothing(
    tmp_path: Path, name: str, make: "partial[None]", ask: "partial[str]", words: str
) -> None:
    from edgewright.intake import child

    given, proof, data = tmp_path / "given", tmp_path / "proof", tmp_path / "data.npz"
    given.mkdir()
    np.savez(data, x=np.zeros((20, 2), np.float32), y=np.zeros(20))
    legacy = ask is not _FOLDER or make is make_lambda
    running = {"environment": {"TF_USE_LEGACY_KERAS": str(int(legacy)), "TF_CPP_MIN_LOG_LEVEL": "3"}}
    opening = partial(ask, given / name, data)
    making = partial(make, str(given / name), str(proof))
    run_in_child(making, what="making it", is_confined=False, **running)
    assert not proof.exists()

    with _nothing_new(tmp_path):
        with suppress(EdgewrightError):
            run_in_child(opening, returns=str, what="opening it", **running)
        with pytest.raises(UntrustedModelError, match=words):
            child.check(given / name, DataSpec(path=data))

    with suppress(EdgewrightError):  # some attacks end in an error once they have written
        run_in_child(opening, returns=str, what="opening it", is_confined=False, **running)
    assert proof.exists()
