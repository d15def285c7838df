"""Which outputs of an ONNX model are kept, and what they are: found by asking it. Runs in a child process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgewright.errors import InputError, UnsupportedError
from edgewright.failures import one_line
from edgewright.intake.onnx_loops import limit_s, run_within
from edgewright.intake.onnx_nodes import drop_unused
from edgewright.intake.onnx_rows import put_output_rows_first, rows_first_note
from edgewright_runtime.bundle.manifest import TensorSpec

__all__ = ["NUMBERS", "Asked", "keep_numbers"]

_REAL = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_WHOLE = {TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8} | {
    TensorProto.UINT64,
    TensorProto.UINT32,
    TensorProto.UINT16,
    TensorProto.UINT8,
    TensorProto.BOOL,
}
NUMBERS = frozenset(_REAL | _WHOLE)
"""Element types that an input may have, or an output."""
# Quantized as they run, by the range of all rows of a batch: what a row is answered depends on the others.
_QUANTIZED_BY_BATCH = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
_PROBES = (3, 2)
"""Rows of zeros; an output whose first axis has first one size, then the other, has a value for each row."""


class Asked:
    """A model that has answered rows of zeros: its session, and its tensors as they then turned out to be.

    ``outputs`` are those with the rows on their first axis; others are taken out of the model. A batch that the model
    declares free, but that only one row at a time fits, is written down as 1; so is one whose scales are of all rows.

    Raises:
        InputError: ONNX Runtime cannot load or run it.
        UnsupportedError: no output has the rows on its first axis.
    """

    def __init__(
        self, model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], path: Path, moved: Sequence[str] = ()
    ) -> None:
        """``moved``: inputs whose rows were put on the first axis; then those of outputs are, too."""
        self.model, self.inputs, self.path = model, inputs, path
        self.notes: tuple[str, ...] = ()
        self.session = _session(model, path)
        if moved:
            self._follow(moved)
        dynamic = next((n.op_type for n in model.graph.node if n.op_type in _QUANTIZED_BY_BATCH), None)
        if dynamic is not None and inputs[0].shape[0] < 0:
            self._fix_batch(f"the batch is declared free, but {dynamic} takes one scale for all rows at once")
        answered = self._answered()
        (rows, arrays), batch = answered[0], self.inputs[0].shape[0]
        # Other axes keep their sizes: what is rows by rows, such as the similarity of each with each, is left out too.
        of_rows = [n for n, a in arrays.items() if all(got[n].shape == (k, *a.shape[1:]) for k, got in answered)]
        if not of_rows:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise UnsupportedError(f"{path}: no output has the rows on its first axis ({shapes} of {rows} rows)")
        if len(of_rows) < len(arrays):
            self._leave_out([name for name in arrays if name not in of_rows])
        self.outputs = tuple(TensorSpec(n, (batch, *arrays[n].shape[1:]), arrays[n].dtype.name) for n in of_rows)

    def _follow(self, moved: Sequence[str]) -> None:
        outputs: list[str] = []
        try:
            outputs = put_output_rows_first(self.model, self._run, self.inputs[0].shape[0])
        except Exception as e:  # ONNX Runtime's errors share no base that it exports
            self.notes += (f"which axis of the outputs has the rows was not to be found: {one_line(e, 200)}",)
        self.notes += (rows_first_note([*moved, *outputs]),)
        self.session = _session(self.model, self.path)

    def _answered(self) -> list[tuple[int, dict[str, NDArray[Any]]]]:
        """How many rows of zeros were answered at once, and the outputs: of each probe."""
        fixed = self.inputs[0].shape[0]
        try:
            return [(rows, self._run(rows)) for rows in ((fixed,) if fixed > 0 else _PROBES)]
        except UnsupportedError as e:
            raise UnsupportedError(f"{self.path}: {e}") from e
        except Exception as e:  # ONNX Runtime's errors share no base that it exports
            # Only a free batch can be given another size.
            if fixed > 0:
                raise InputError(f"{self.path}: ONNX Runtime cannot run it: {one_line(e, 200)}") from e
            why = one_line(e, 200)
            self._fix_batch(f"the batch is declared free, but only one row at a time is answered ({why})")
        try:
            return [(1, self._run(1))]
        except UnsupportedError as e:
            raise UnsupportedError(f"{self.path}: {e}") from e
        except Exception as e:
            raise InputError(f"{self.path}: ONNX Runtime cannot run it: {one_line(e, 200)}") from e

    def _run(self, rows: int) -> dict[str, NDArray[Any]]:
        # Zeros are valid indices of any embedding.
        zeros = {t.name: np.zeros((rows, *t.shape[1:]), dtype=t.dtype) for t in self.inputs}
        names = [entry.name for entry in self.session.get_outputs()]
        answers = run_within(self.session, zeros, limit_s(self.model))
        return {n: np.asarray(a) for n, a in zip(names, answers, strict=True)}

    def _fix_batch(self, why: str) -> None:
        self.notes += (f"{why}: taken as 1",)
        names = {t.name for t in self.inputs}
        # Outputs too: their declared first size would contradict what one row gives.
        for entry in [*(e for e in self.model.graph.input if e.name in names), *self.model.graph.output]:
            dims = entry.type.tensor_type.shape.dim
            if len(dims):
                dims[0].dim_value = 1
        self.inputs = tuple(TensorSpec(t.name, (1, *t.shape[1:]), t.dtype) for t in self.inputs)
        self.session = _session(self.model, self.path)

    def _leave_out(self, names: list[str]) -> None:
        _without_outputs(self.model, names)
        self.notes += (f"outputs without the rows on their first axis were left out: {', '.join(names)}",)
        self.session = _session(self.model, self.path)


def keep_numbers(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """Keep the outputs of real numbers, or of whole ones where there are no others: labels follow from scores.

    Raises:
        UnsupportedError: no output is a tensor of numbers.
    """
    kinds = {o.name: o.type.tensor_type.elem_type for o in model.graph.output if o.type.HasField("tensor_type")}
    names = [n for n, kind in kinds.items() if kind in _REAL] or [n for n, kind in kinds.items() if kind in _WHOLE]
    if not names:
        shown = ", ".join(o.name for o in model.graph.output)
        raise UnsupportedError(
            f"{path}: outputs {shown}: none is a tensor of numbers (export scikit-learn models with zipmap off)"
        )
    dropped = [o.name for o in model.graph.output if o.name not in names]
    if not dropped:
        return ()
    _without_outputs(model, dropped)
    return (
        f"of the outputs, {', '.join(names)} {'is' if len(names) == 1 else 'are'} kept; left out: {', '.join(dropped)}",
    )


def _without_outputs(model: onnx.ModelProto, names: list[str]) -> None:
    for entry in [o for o in model.graph.output if o.name in names]:
        model.graph.output.remove(entry)
    drop_unused(model)


def _session(model: onnx.ModelProto, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is told by the exception
    # The referee computes what the file says: nothing fused, nothing reordered.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's errors share no base that it exports
        raise InputError(f"{path}: ONNX Runtime cannot load it: {one_line(e, 200)}") from e
