"""TensorFlow's side of the door: load a Keras file or a SavedModel, answer the test rows, convert to ONNX.

Runs in a child of its own, so that the loader of Keras 2 (tf-keras, chosen by an environment variable before the
first import) can be tried after that of Keras 3, and so that TensorFlow shares no process with torch.
"""

import importlib
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Format
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.intake.arrays import read_arrays
from edgewright.intake.keras_guard import inspect_keras_file, inspect_saved_model
from edgewright_runtime.manifest import TensorSpec

__all__ = ["convert", "load"]

_OPSET = 18
_ROWS_AT_ONCE = 256
_INVALID = re.compile(r"\W|^(?=\d)")


@dataclass(frozen=True)
class Loaded:
    """A model as a function of its input tensors; ``loader`` says what read it.

    A function of a SavedModel does not keep the variables alive that it reads: ``owner`` does.
    """

    owner: Any
    function: Callable[..., Any]
    inputs: tuple[TensorSpec, ...]
    loader: str


def convert(path: str, kind: str, data: str, folder: str, legacy: bool, checking: bool) -> dict[str, Any]:
    """Load and describe a model; unless ``checking``, write ``model.onnx`` and ``reference.npy`` into ``folder``.

    Returns ``{"failed": reason}`` where this loader cannot read the file: another may.
    """
    spec, source = DataSpec.model_validate_json(data), Path(path)
    inspect = inspect_saved_model if kind == Format.SAVED_MODEL else inspect_keras_file
    inspect(source)
    try:
        loaded = load(source, Format(kind), spec, legacy=legacy)
    except (InputError, UnsupportedError):
        raise
    except Exception as e:  # TensorFlow's loaders raise whatever they meet
        return {"failed": f"{type(e).__name__}: {_line(e)}"}
    output = _output(loaded)
    samples = read_arrays(spec, loaded.inputs)
    if not checking:
        test = [samples.inputs[t.name][samples.rows.test] for t in loaded.inputs]
        np.save(Path(folder) / "reference.npy", _answers(loaded, test))
        _to_onnx(loaded, output, Path(folder) / "model.onnx")
    return {
        "inputs": [[t.name, list(t.shape), t.dtype] for t in loaded.inputs],
        "output": [output.name, list(output.shape), output.dtype],
        "loader": loaded.loader,
    }


def load(path: Path, kind: Format, spec: DataSpec, *, legacy: bool) -> Loaded:
    """The model, by Keras 3 and TensorFlow's own loader or, `legacy`, by that of Keras 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    if kind is Format.SAVED_MODEL:
        return _load_saved_model(path, spec, legacy=legacy)
    keras = importlib.import_module("tf_keras" if legacy else "keras")
    # Both libraries judge the archive by its suffix alone.
    name = path if path.suffix in {".keras", ".h5", ".hdf5"} else _with_suffix(path)
    model = keras.models.load_model(name, compile=False)
    loader = f"{'tf-keras' if legacy else 'keras'} {keras.__version__}"
    if getattr(model, "inputs", None) is None:
        raise InputError(f"{path}: the model does not say what it takes; build it with an Input before saving")
    if not legacy:
        _keep_batch_normalization(keras)
    inputs = tuple(
        _spec(getattr(t, "name", f"input_{i}"), t.shape, t.dtype, spec, path) for i, t in enumerate(model.inputs)
    )

    def function(*tensors: Any) -> Any:
        return model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)

    return Loaded(model, function, inputs, loader)


def _with_suffix(path: Path) -> Path:
    import tempfile

    with path.open("rb") as stream:
        suffix = ".keras" if stream.read(2) == b"PK" else ".h5"
    link = Path(tempfile.mkdtemp()) / f"model{suffix}"
    link.symlink_to(path.absolute())
    return link


def _load_saved_model(path: Path, spec: DataSpec, *, legacy: bool) -> Loaded:
    import tensorflow as tf

    if legacy:
        import tf_keras

        model = tf_keras.models.load_model(str(path), compile=False)
        loader = f"tf-keras {tf_keras.__version__}"
        signature = getattr(model, "signatures", {}).get("serving_default")
    else:
        model = tf.saved_model.load(str(path))
        loader = f"tensorflow {tf.__version__}"
        signature = model.signatures.get("serving_default") or next(iter(model.signatures.values()), None)
    if signature is None:
        raise InputError(f"{path}: a SavedModel without a serving signature; save it with model.export or signatures=")
    declared = signature.structured_input_signature[1]
    names = sorted(declared)
    inputs = tuple(_spec(n, declared[n].shape, declared[n].dtype, spec, path) for n in names)

    def function(*tensors: Any) -> Any:
        results = signature(**dict(zip(names, tensors, strict=True)))
        if len(results) != 1:
            raise UnsupportedError(f"{path}: the signature returns {len(results)} tensors; one is supported")
        return next(iter(results.values()))

    return Loaded(model, function, inputs, loader)


def _spec(name: str, shape: Any, dtype: Any, spec: DataSpec, path: Path) -> TensorSpec:
    """An input; sizes that are free beyond the first axis come from ``--shape``."""
    plain = _INVALID.sub("_", name)
    sizes = [None if s is None else int(s) for s in shape]
    given = spec.shapes.get(name, spec.shapes.get(plain))
    for axis in range(1, len(sizes)):
        if sizes[axis] is None and given is not None and len(given) == len(sizes):
            sizes[axis] = given[axis]
        if sizes[axis] is None:
            raise InputError(f"{path}: input '{plain}', axis {axis} has a free size; give it: --shape {plain}=1,...")
    kind = getattr(dtype, "name", str(dtype))
    if kind in {"string", "variant", "resource"}:
        raise UnsupportedError(f"{path}: input '{plain}' of type {kind} is no tensor of numbers")
    return TensorSpec(plain, (-1 if sizes[0] is None else sizes[0], *(s for s in sizes[1:] if s is not None)), kind)


def _keep_batch_normalization(keras: Any) -> None:
    """Keras 3 computes BatchNorm from scalars, which any converter folds away; the fused operator stays one node."""
    import tensorflow as tf

    plain = keras.layers.BatchNormalization.call

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if len(inputs.shape) != 4 or self.axis not in {-1, 3}:
            return plain(self, inputs, training=training, mask=mask)
        mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones_like(mean)
        shift = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(mean)
        normalize = tf.compat.v1.nn.fused_batch_norm
        return normalize(inputs, scale, shift, mean, variance, epsilon=self.epsilon, is_training=False)[0]

    keras.layers.BatchNormalization.call = call


def _output(loaded: Loaded) -> TensorSpec:
    rows = abs(loaded.inputs[0].shape[0])
    result = _single(loaded.function(*(np.zeros((rows, *t.shape[1:]), t.dtype) for t in loaded.inputs)))
    return TensorSpec("output", (loaded.inputs[0].shape[0], *result.shape[1:]), result.dtype.name)


def _single(result: Any) -> Any:
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        if len(result) != 1:
            raise UnsupportedError(f"the model returns {len(result)} tensors; one is supported")
        result = result[0]
    return np.asarray(result) if not hasattr(result, "numpy") else result.numpy()


def _answers(loaded: Loaded, inputs: Sequence[Any]) -> Any:
    fixed = loaded.inputs[0].shape[0]
    step = fixed if fixed > 0 else _ROWS_AT_ONCE
    found = []
    for start in range(0, len(inputs[0]), step):
        piece = [x[start : start + step] for x in inputs]
        kept = len(piece[0])
        if fixed > 0 and kept < fixed:
            piece = [np.concatenate([x, np.repeat(x[-1:], fixed - kept, axis=0)]) for x in piece]
        found.append(_single(loaded.function(*piece))[:kept].astype(np.float64))
    return np.concatenate(found)


def _to_onnx(loaded: Loaded, output: TensorSpec, target: Path) -> None:
    import onnx
    import tensorflow as tf
    import tf2onnx
    from tf2onnx.optimizer import back_to_back_optimizer

    # Retraining needs BatchNorm as a node of its own.
    back_to_back_optimizer._func_map.pop(("Conv", "BatchNormalization"), None)
    signature = [tf.TensorSpec([None if s < 0 else s for s in t.shape], t.dtype, name=t.name) for t in loaded.inputs]

    def named(*tensors: Any) -> Any:
        result = loaded.function(*tensors)
        while isinstance(result, (list, tuple, dict)):
            result = next(iter(result.values())) if isinstance(result, dict) else result[0]
        return tf.identity(result, name=output.name)

    try:
        model, _ = tf2onnx.convert.from_function(
            tf.function(named, input_signature=signature), input_signature=signature, opset=_OPSET
        )
    except Exception as e:  # tf2onnx raises whatever it meets
        raise ConversionError(f"tf2onnx: {type(e).__name__}: {_line(e)}") from e
    onnx.save(model, target)


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[:240]
