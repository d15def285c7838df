"""TensorFlow's own converter, for Keras and SavedModel sources that nothing has changed. Runs in a child process."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import Format
from edgewright.data import DataSpec

__all__ = ["convert", "race"]

_ROUNDS = 40
_WARM_UP = 5


def convert(*, source: str, form: str, legacy: bool, inputs: list[dict[str, Any]], path: str) -> None:
    """A Keras file or SavedModel to a float32 `.tflite` of batch 1; inputs and outputs are numbered."""
    import tensorflow as tf

    from edgewright.intake.keras_child import load

    loaded = load(Path(source), Format(form), DataSpec(path=Path(source)), legacy=legacy)
    signature = [
        tf.TensorSpec([1, *spec["shape"][1:]], spec["dtype"], name=f"args_{i}") for i, spec in enumerate(inputs)
    ]
    module = tf.Module()
    # What is not tracked by the module is not saved; Keras 3 wraps its variables in a class that TensorFlow overlooks.
    module.owner = loaded.owner
    module.held = [getattr(variable, "value", variable) for variable in getattr(loaded.owner, "variables", ())]
    module.run = tf.function(lambda *tensors: {"output_0": loaded.function(*tensors)}, input_signature=signature)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=module.run.get_concrete_function())
        Path(path).write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def race(paths: list[str]) -> list[float]:
    """Median latency of each `.tflite`, milliseconds, one thread, the files taking turns on the same zeros."""
    from ai_edge_litert.interpreter import Interpreter

    runners = []
    for path in paths:
        runner = Interpreter(path, num_threads=1).get_signature_runner()
        rows = {name: np.zeros(d["shape"], d["dtype"]) for name, d in runner.get_input_details().items()}
        runners.append((runner, rows))
    times: list[list[float]] = [[] for _ in paths]
    for turn in range(_WARM_UP + _ROUNDS):
        for i, (runner, rows) in enumerate(runners):
            began = time.perf_counter()
            runner(**rows)
            if turn >= _WARM_UP:
                times[i].append(1000 * (time.perf_counter() - began))
    return [statistics.median(found) for found in times]
