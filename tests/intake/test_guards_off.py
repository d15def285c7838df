"""Code of others runs, as if every guard had failed: nothing of it leaves the sandbox."""

import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from edgewright import sandbox
from edgewright.child import run_in_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confined by Landlock and seccomp, which Linux has")


class Hostile:
    """Unpickled, it writes a file and says so inside."""

    def __init__(self, proof: str) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        code = f"__import__('pathlib').Path({self.proof!r}).write_text('run')"
        return eval, (f"(print('was run', flush=True), {code})",)


def make_pickle(path: str, proof: str) -> None:
    Path(path).write_bytes(pickle.dumps(Hostile(proof)))


def load_pickle(path: str) -> None:
    pickle.loads(Path(path).read_bytes())


def make_joblib(path: str, proof: str) -> None:
    import joblib

    joblib.dump(Hostile(proof), path)


def load_joblib(path: str) -> None:
    import joblib

    joblib.load(path)


def make_torch(path: str, proof: str) -> None:
    import torch

    torch.save({"weight": torch.zeros(2), "more": Hostile(proof)}, path)


def load_torch(path: str) -> None:
    import torch

    torch.load(path, weights_only=False)


def make_keras(path: str, proof: str) -> None:
    """A layer of Python bytecode."""
    import keras

    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(_writing(proof), output_shape=(2,))]).save(path)
    Path(proof).unlink(missing_ok=True)  # tracing it ran it


def load_keras(path: str) -> None:
    import keras
    import numpy as np

    keras.config.enable_unsafe_deserialization()
    keras.saving.load_model(path, safe_mode=False).predict(np.zeros((1, 2)), verbose=0)


def make_keras_2(path: str, proof: str) -> None:
    """The same in the format of Keras 2, whose loader asks nothing."""
    import tf_keras

    tf_keras.Sequential([tf_keras.Input((2,)), tf_keras.layers.Lambda(_writing(proof))]).save(path)
    Path(proof).unlink(missing_ok=True)  # tracing it ran it


def _writing(proof: str) -> Callable[[object], object]:
    code = f"lambda x: (__import__('pathlib').Path({proof!r}).write_text('run'), x)[1]"
    made: Callable[[object], object] = eval(code)  # noqa: S307 - the attack itself
    return made


def load_keras_2(path: str) -> None:
    import numpy as np
    import tf_keras

    tf_keras.models.load_model(path, compile=False)(np.zeros((1, 2), np.float32))


def make_saved_model(path: str, proof: str) -> None:
    """A graph with an operator that writes."""
    import tensorflow as tf

    class Writing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32)])
        def __call__(self, x: "tf.Tensor") -> "tf.Tensor":
            tf.print("was run", output_stream=sys.stderr)
            with tf.control_dependencies([tf.io.write_file(proof, "run")]):
                return tf.identity(x)

    tf.saved_model.save(Writing(), path)


def load_saved_model(path: str) -> None:
    import tensorflow as tf

    tf.saved_model.load(path)(tf.zeros((1, 2)))


CASES = [
    ("m.pkl", make_pickle, load_pickle),
    ("m.joblib", make_joblib, load_joblib),
    ("m.pt", make_torch, load_torch),
    pytest.param("m.keras", make_keras, load_keras, marks=pytest.mark.slow),
    pytest.param("m.h5", make_keras_2, load_keras_2, marks=pytest.mark.slow),
    pytest.param("saved_model", make_saved_model, load_saved_model, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "make", "load"), CASES)
def test_code_in_a_file_runs_into_the_wall(
    tmp_path: Path, name: str, make: Callable[[str, str], None], load: Callable[[str], None]
) -> None:
    given, proof = tmp_path / "given", tmp_path / "proof"
    given.mkdir()
    loading = partial(load, str(given / name))
    run_in_child(partial(make, str(given / name), str(proof)), what="making it", is_confined=False)
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(Exception, match=r"Permission|PERMISSION|not permitted"):
        run_in_child(loading, what="loading it")
    assert sorted(path for path in tmp_path.rglob("*")) == before
    # The same without the wall: what was tried is the real thing.
    run_in_child(loading, what="loading it", is_confined=False)
    assert proof.read_text() == "run"


def test_the_wall_is_whole_here() -> None:
    """Else the tests above would hold for less than they say."""
    assert run_in_child(partial(_told), returns=str, what="asking").unconfined == ""


def _told() -> str:
    return sandbox.__name__
