"""What was made of a source must answer as the source does in its own framework. Runs in a child process."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import ConversionError, EdgewrightError
from edgewright.failures import one_line
from edgewright.intake.row_mixing import (
    BATCHES,
    LIMIT,
    ROWS,
    OutputArrays,
    allowed_beside,
    distances,
    said_of_rounding,
    tolerated_share,
)
from edgewright.intake.source import Source

if TYPE_CHECKING:
    import onnx
    from torch import fx

__all__ = ["compare_graph", "compare_onnx"]

_ROUNDED_ROWS = 32  # in float64, and only of what is beyond the fixed limit


def compare_graph(graph: Any, source: Source, reference: OutputArrays, what: str) -> None:
    """The torch graph, asked for 1, 2 and 7 rows and for many where its batch is free.

    Raises:
        ConversionError: it fails on a batch, or disagrees; the message names the operator or says by how much.
    """
    import torch

    rows = source.samples.rows.test[:ROWS]
    inputs = _tensors(source)
    batch_answers: list[list[NDArray[np.float64]]] = []
    with torch.no_grad():
        for start, size in _pieces(len(rows), source.inputs[0].shape[0]):
            # Cloned, since nothing proves of a graph's operations that they leave their inputs alone.
            piece = [_filled(x[start : start + size].clone(), size, source.inputs[0].shape[0]) for x in inputs]
            results = _run(graph, piece, what)
            # The last piece of a fixed batch is filled up; what answers the filling is cut off.
            row_count = min(size, len(rows) - start)
            batch_answers.append([r[:row_count].double().numpy() if r.ndim else r.double().numpy() for r in results])
    answers = [_joined(column, what) for column in zip(*batch_answers, strict=True)]
    _compare(answers, source, reference, what, lambda: _rounding(graph, source))


def compare_onnx(model: "onnx.ModelProto", source: Source, reference: OutputArrays, what: str) -> None:
    """The ONNX graph in ONNX Runtime, asked for 1, 2 and 7 rows and for many where its batch is free.

    Raises:
        ConversionError: ONNX Runtime cannot run it, or it disagrees.
    """
    import onnxruntime

    from edgewright.intake.onnx_source import run_onnx

    options = onnxruntime.SessionOptions()
    # Errors alone: it warns of every unused constant of a graph.
    options.log_severity_level = 3
    rows = source.samples.rows.test[:ROWS]
    inputs = {name: x[rows] for name, x in source.samples.inputs.items()}
    batch_answers = []
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for start, size in _pieces(len(rows), source.inputs[0].shape[0]):
            batch_answers.append(run_onnx(session, {name: x[start : start + size] for name, x in inputs.items()}))
    except Exception as e:  # ONNX Runtime's errors share no base that it exports
        raise ConversionError(f"{what}: ONNX Runtime cannot run what was exported: {one_line(e, 240)}") from e
    answers = [_joined(column, what) for column in zip(*batch_answers, strict=True)]
    _compare(answers, source, reference, what, lambda: _rounding_of_onnx(model, source))


def _tensors(source: Source) -> list[Any]:
    """The test rows of each input."""
    import torch

    rows = source.samples.rows.test[:ROWS]
    return [torch.from_numpy(x[rows]) for x in source.samples.inputs.values()]


def _rounding(graph: "fx.GraphModule", source: Source) -> list[float] | None:
    """Of each output, how far rounding carries the graph's own float32 answers; None: that is not known."""
    from edgewright.intake.own_rounding import own_rounding

    inputs, batch = _tensors(source), source.inputs[0].shape[0]
    pieces = _pieces(min(len(inputs[0]), _ROUNDED_ROWS), batch)
    return own_rounding(graph, [[_filled(x[at : at + size], size, batch) for x in inputs] for at, size in pieces])


def _rounding_of_onnx(model: "onnx.ModelProto", source: Source) -> list[float] | None:
    from edgewright.intake.onnx_graph import import_onnx

    try:
        return _rounding(import_onnx(model), source)
    except EdgewrightError:  # what has no graph is judged by the fixed limit
        return None


def _pieces(count: int, batch: int) -> Iterator[tuple[int, int]]:
    """(start, size) of the batches that the rows are given in."""
    start = 0
    # Few rows come first: a batch size that was written into the graph fails there.
    for size in BATCHES if batch < 0 else ():
        if start < count:
            yield start, min(size, count - start)
            start += size
    # A fixed batch is never given in part.
    step = batch if batch > 0 else ROWS
    yield from ((at, step if batch > 0 else min(step, count - at)) for at in range(start, count, step))


def _filled(piece: Any, size: int, batch: int) -> Any:
    """Rows up to a fixed batch size, the last one repeated."""
    import torch

    short = size - len(piece) if batch > 0 else 0
    return torch.cat([piece, piece[-1:].expand(short, *piece.shape[1:])]) if short else piece


def _run(graph: Any, piece: list[Any], what: str) -> tuple[Any, ...]:
    from torch import fx

    failing = ""

    class Named(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            nonlocal failing
            failing = f"{n.target} (node '{n.name}')"
            return super().run_node(n)

    try:
        results = graph(*piece)
    except Exception as error:  # run again by hand: which operator it is, the graph's own code does not say
        try:
            Named(graph).run(*piece)
        except Exception as e:
            raise ConversionError(
                f"{what}: operator {failing} fails on {len(piece[0])} rows: {one_line(e, 200)}"
            ) from e
        raise ConversionError(f"{what}: fails on {len(piece[0])} rows: {one_line(error, 200)}") from error
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


def _joined(column: Sequence[NDArray[np.float64]], what: str) -> NDArray[np.float64]:
    try:
        return np.concatenate(column)
    except ValueError as e:
        shapes = " and ".join(sorted({str(part.shape) for part in column}))
        raise ConversionError(f"{what}: an output's shape depends on the number of rows: {shapes}") from e


def _compare(
    answers: OutputArrays,
    source: Source,
    reference: OutputArrays,
    what: str,
    rounding: Callable[[], list[float] | None],
) -> None:
    """Each output, row by row; ``rounding`` is asked only where one is beyond the fixed limit.

    Raises:
        ConversionError: one differs; the message says by how much.
    """
    if len(answers) != len(reference):
        raise ConversionError(f"{what} returns {len(answers)} tensors, the source model {len(reference)}")
    own: list[float] | None = None
    for place, (tensor, got, whole) in enumerate(zip(source.outputs, answers, reference, strict=True)):
        # The reference answers every test row, the graph was asked for the first of them.
        expected = whole[: len(got)]
        name = f" in output '{tensor.name}'" if len(reference) > 1 else ""
        if got.shape != expected.shape:
            raise ConversionError(f"{what} returns {got.shape}{name}, the source model {expected.shape}")
        far = distances(got, expected)
        share, tolerated = _beyond(far, LIMIT), tolerated_share(tensor, float32_only=source.float32_only)
        if share <= tolerated:
            continue
        # At most once for all outputs: it runs the graph in float64.
        own = (rounding() or [0.0] * len(answers)) if own is None else own
        message = f"{what} disagrees with the source model{name} on {share:.1%} of {len(got)} rows "
        message += f"(largest relative difference {float(far.max()):.2g}, allowed {LIMIT:.0e}"
        about = f"; {said_of_rounding(own[place], LIMIT)}" if own[place] else ""
        if _beyond(far, allowed_beside(own[place])) > tolerated:
            raise ConversionError(f"{message}{about})")
        # Beyond the fixed limit, but no further than the model's own rounding carries it.
        source.notes += (f"{message}{about})",)


def _beyond(far: NDArray[np.float64], limit: float) -> float:
    """The share of rows that are beyond the limit; NaN is."""
    # Not `far > limit`, which is false of NaN.
    return float((~(far <= limit)).mean())
