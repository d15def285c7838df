"""TensorFlow's side of intake: load a Keras file or a SavedModel, answer the test rows, convert to ONNX.

Runs in a child of its own, so that the loader of Keras 2 (tf-keras, chosen by an environment variable before the
first import) can be tried after that of Keras 3, and so that TensorFlow shares no process with torch.
"""

import importlib
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Format
from edgewright.data import DataSpec
from edgewright.errors import EdgewrightError, InputError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.answers import answers_of_network
from edgewright.intake.archives import normalized
from edgewright.intake.arrays import read_arrays
from edgewright.intake.given_shapes import input_sizes
from edgewright.intake.keras_answers import answers_of, outputs_of
from edgewright.intake.keras_found import Described, LoadResult
from edgewright.intake.keras_guard import inspect_keras_file, inspect_saved_model
from edgewright.intake.keras_loaded import Loaded
from edgewright.intake.keras_resizing import check_resizing
from edgewright.intake.row_mixing import refuse_mixed_rows
from edgewright.intake.single_numbers import Number, fixed_note, single_number
from edgewright.intake.tensor_names import plain_name
from edgewright.variables import default_variables
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["convert", "load"]


def convert(path: Path, kind: Format, spec: DataSpec, folder: Path, *, legacy: bool, checking: bool) -> LoadResult:
    """Load and describe a model; unless ``checking``, write ``model.onnx`` and answers (``{split}.npz``) there.

    Raises:
        UntrustedModelError, InputError: as `load` and `edgewright.intake.arrays.read_arrays`.
        UnsupportedError: an input or output that has no place here, or an answer that depends on the rows beside it.
    """
    try:
        loaded = load(path, kind, spec, legacy=legacy)
        outputs, notes = outputs_of(loaded)
    except EdgewrightError:
        raise
    except Exception as e:  # TensorFlow's loaders and kernels raise whatever they meet
        return LoadResult(failure=f"{type(e).__name__}: {one_line(e, 240)}")
    tensors = tuple(t for t, _ in outputs)
    samples = read_arrays(spec, loaded.inputs, lambda y: answers_of_network(y, tensors, spec))
    refusal = None
    if not checking:
        from edgewright.intake.keras_onnx import to_onnx

        # The test rows come last: they and their answers are what is asked again below.
        for split in ("validation", "calibration", "test"):
            rows = [samples.inputs[t.name][getattr(samples.rows, split)] for t in loaded.inputs]
            answers = answers_of(loaded, outputs, rows)
            np.savez(folder / f"{split}.npz", *answers)
        notes += refuse_mixed_rows(
            lambda some: answers_of(loaded, outputs, [x[some] for x in rows]),
            answers,
            tensors,
            batch=loaded.inputs[0].shape[0],
        )
        refusal = to_onnx(loaded, outputs, folder / "model.onnx")
    fixed = [fixed_note(name, np.asarray(value)) for name, value in loaded.numbers.items()]
    described = Described(
        inputs=loaded.inputs,
        outputs=tensors,
        loader=loaded.loader,
        notes=(*notes, *fixed),
        refusal=refusal,
        numbers=dict(loaded.numbers),
    )
    return LoadResult(model=described)


def load(
    path: Path, kind: Format, spec: DataSpec, *, legacy: bool, numbers: Mapping[str, Number] | None = None
) -> Loaded:
    """The model, by Keras 3 and TensorFlow's own loader or, `legacy`, by that of Keras 2; looked into before.

    ``numbers`` are the values of a SavedModel's inputs that are one number for all rows; None: those of the data.

    Raises:
        InputError: the data does not give such a number.
        UntrustedModelError: it may do more than compute; nothing of it has run.
    """
    # TensorFlow reads it when it is imported.
    default_variables({"TF_CPP_MIN_LOG_LEVEL": "3"})
    warnings.simplefilter("ignore")
    if kind is Format.SAVED_MODEL:
        inspect_saved_model(path)
        return _load_saved_model(path, spec, numbers, legacy=legacy)
    # A zip is written anew, so that Keras's reader finds what was looked at and nothing else.
    with normalized(path) if zipfile.is_zipfile(path) else nullcontext(path) as file:
        inspect_keras_file(file)
        return _load_keras(file, spec, legacy=legacy)


def _load_keras(path: Path, spec: DataSpec, *, legacy: bool) -> Loaded:
    keras = importlib.import_module("tf_keras" if legacy else "keras")
    # Both libraries judge the archive by its suffix alone.
    name = path if path.suffix in {".keras", ".h5", ".hdf5"} else _with_suffix(path)
    # A loss or an optimizer may be of any class, and none is needed here.
    model = keras.models.load_model(name, compile=False)
    loader = f"{'tf-keras' if legacy else 'keras'} {keras.__version__}"
    if getattr(model, "inputs", None) is None:
        raise InputError(f"{path}: the model does not say what it takes; build it with an Input before saving")
    if not legacy:
        check_resizing(model, keras.__version__)
        _keep_batch_normalization(keras)
    declared = [(getattr(t, "name", f"input_{i}"), t.shape, t.dtype) for i, t in enumerate(model.inputs)]
    inputs = _inputs(declared, spec, path)

    def function(*tensors: Any) -> Any:
        return model(_packed(model, tensors), training=False)

    return Loaded(model, function, inputs, loader, tuple(getattr(model, "output_names", ())))


def _packed(model: Any, tensors: Sequence[Any]) -> Any:
    """The tensors as the model is called with: alone, as a list, or by name where it was made so."""
    import tensorflow as tf

    wanted = getattr(model, "input", None)  # a Sequential that was never called since it was loaded has none
    if isinstance(wanted, dict):
        return tf.nest.pack_sequence_as(wanted, list(tensors))
    return list(tensors) if len(tensors) > 1 else tensors[0]


def _with_suffix(path: Path) -> Path:
    import tempfile

    with path.open("rb") as stream:
        suffix = ".keras" if stream.read(2) == b"PK" else ".h5"
    link = Path(tempfile.mkdtemp()) / f"model{suffix}"
    link.symlink_to(path.absolute())
    return link


def _load_saved_model(path: Path, spec: DataSpec, numbers: Mapping[str, Number] | None, *, legacy: bool) -> Loaded:
    import tensorflow as tf

    # TensorFlow's own loader fails on the slots of an old optimizer; tf-keras builds the layers instead.
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
    # Signatures take their tensors by name.
    declared = signature.structured_input_signature[1]
    single = {n: t.dtype for n, t in sorted(declared.items()) if t.shape.rank == 0 and _is_number(t.dtype)}
    if numbers is None:
        numbers = {n: single_number(spec, plain_name(n), dtype.name, path).item() for n, dtype in single.items()}
    fixed = {n: tf.constant(numbers[n], dtype) for n, dtype in single.items()}
    # Sorted, so that the order of the inputs depends on names alone.
    names = [n for n in sorted(declared) if n not in fixed]
    if fixed and not names:
        raise UnsupportedError(f"{path}: it takes single numbers alone; the first axis of an input must be the rows")
    inputs = _inputs([(n, declared[n].shape, declared[n].dtype) for n in names], spec, path)

    def function(*tensors: Any) -> Any:
        return signature(**dict(zip(names, tensors, strict=True)), **fixed)

    return Loaded(model, function, inputs, loader, numbers=numbers)


def _is_number(dtype: Any) -> bool:
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def _inputs(declared: Sequence[tuple[str, Any, Any]], spec: DataSpec, path: Path) -> tuple[TensorSpec, ...]:
    """The inputs by name, shape and dtype; sizes that are free beyond the first axis come from ``--shape``."""
    # A dtype of TensorFlow has a `name`; Keras 3 gives plain text.
    kinds = {plain_name(name): getattr(dtype, "name", str(dtype)) for name, _, dtype in declared}
    foreign = next((name for name, kind in kinds.items() if kind in {"string", "variant", "resource"}), None)
    if foreign is not None:
        raise UnsupportedError(f"{path}: input '{foreign}' of type {kinds[foreign]} is not a tensor of numbers")
    single = next((plain_name(name) for name, shape, _ in declared if not len(shape)), None)
    if single is not None:
        raise UnsupportedError(
            f"{path}: input '{single}' is a single number; the first axis must be the rows: save a model that holds "
            "its value as a constant"
        )
    shapes = {plain_name(name): ["" if s is None else int(s) for s in shape] for name, shape, _ in declared}
    sizes = input_sizes(shapes, spec.shapes, path)
    return tuple(TensorSpec(name, sizes[name], kind) for name, kind in kinds.items())


def _keep_batch_normalization(keras: Any) -> None:
    """Keras 3 computes BatchNorm from scalars, which any converter folds away; the fused operator stays one node."""
    import tensorflow as tf

    plain = keras.layers.BatchNormalization.call

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        # The fused operator is for images, with the channels last.
        if len(inputs.shape) != 4 or self.axis not in {-1, 3}:
            return plain(self, inputs, training=training, mask=mask)
        mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones_like(mean)
        shift = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(mean)
        normalize = tf.compat.v1.nn.fused_batch_norm
        return normalize(inputs, scale, shift, mean, variance, epsilon=self.epsilon, is_training=False)[0]

    keras.layers.BatchNormalization.call = call
