"""What steps of the zoo import again and again, imported once in the process that they are forked from.

TensorFlow and scikit-learn are kept out: coremltools would import both, and TensorFlow does not survive a fork. What
needs them runs in an interpreter of its own.
"""

import importlib
import os
import sys

_KEPT_OUT = ("tensorflow", "sklearn")
_PRELOADED = (
    *("numpy", "torch", "onnxruntime", "onnxruntime.quantization", "ai_edge_litert.interpreter"),
    *("coremltools", "coremltools.optimize.coreml", "litert_torch", "ai_edge_quantizer", "onnxscript"),
    *("edgewright.export", "edgewright.intake", "edgewright.export.runs", "edgewright.export.mil_evaluator"),
)


def _import_quietly() -> None:
    """Their notices of what is not installed are of no use here; an import error ends the process all the same."""
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        for name in _PRELOADED:
            importlib.import_module(name)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)


sys.modules.update(dict.fromkeys(_KEPT_OUT))  # type: ignore[arg-type]
_import_quietly()
