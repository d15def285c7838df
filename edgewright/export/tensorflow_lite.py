"""TensorFlow's own converter, for Keras and SavedModel sources that nothing has changed. Runs in a child process."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgewright.export.tensorflow_source import TensorFlowSource, loaded_source, of_one_row, refused

__all__ = ["convert", "race"]

_ROUNDS = 40
_WARM_UP = 5


def convert(source: TensorFlowSource, *, path: Path, count: int) -> None:
    """A Keras file or SavedModel to a float32 `.tflite` of batch 1; its ``count`` inputs and its outputs are numbered.

    Raises:
        UnsupportedError: LiteRT has no operator for one of TensorFlow's; names it.
        ConversionError: the converter fails otherwise.
    """
    import tensorflow as tf

    loaded = loaded_source(source)
    plain = of_one_row(loaded, [f"args_{i}" for i in range(count)])
    module = tf.Module()
    # What is not tracked by the module is not saved; Keras 3 wraps its variables in a class that TensorFlow overlooks.
    module.owner = loaded.owner
    module.held = [getattr(variable, "value", variable) for variable in getattr(loaded.owner, "variables", ())]
    module.run = tf.function(
        lambda *tensors: {f"output_{i}": value for i, value in enumerate(plain(*tensors))},
        input_signature=plain.input_signature,
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            tf.saved_model.save(module, folder, signatures=module.run.get_concrete_function())
            converted = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        except Exception as e:  # TensorFlow raises whatever it meets
            raise refused("TensorFlow's converter to LiteRT", e) from e
        path.write_bytes(converted)


def race(paths: Sequence[Path]) -> list[float]:
    """Median latency of each `.tflite`, milliseconds, one thread, the files taking turns on the same zeros."""
    from ai_edge_litert.interpreter import Interpreter

    runners = []
    for path in paths:
        runner = Interpreter(str(path), num_threads=1).get_signature_runner()
        rows = {name: np.zeros(d["shape"], d["dtype"]) for name, d in runner.get_input_details().items()}
        runners.append((runner, rows))
    times: list[list[float]] = [[] for _ in paths]
    # In turns: heat and other processes then slow all files alike.
    for turn in range(_WARM_UP + _ROUNDS):
        for i, (runner, rows) in enumerate(runners):
            began = time.perf_counter()
            runner(**rows)
            if turn >= _WARM_UP:
                times[i].append(1000 * (time.perf_counter() - began))
    return [statistics.median(file_times) for file_times in times]
