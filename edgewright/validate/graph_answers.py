"""Runs a torch graph over rows; in a child process only, since torch is heavy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgewright_runtime.bench.run import read_arrays, write_arrays

__all__ = ["run_graph"]

_ROWS_AT_ONCE = 256


def run_graph(
    path: Path, *, rows: Path, answers: Path, input_names: Sequence[str], output_names: Sequence[str], batch: int
) -> str:
    """Write the outputs of every row to ``answers`` (float64, by name) and return what ran the graph.

    ``batch`` is the size that it takes, -1 where any; the last rows are then filled up with copies of the last one.
    """
    import torch

    from edgewright.intake import torch_graph

    graph = torch_graph.load(path).eval()
    held = read_arrays(rows)
    count, step = len(held[input_names[0]]), batch if batch > 0 else _ROWS_AT_ONCE
    batches: list[list[np.ndarray]] = []
    with torch.no_grad():
        for start in range(0, count, step):
            pieces = [held[name][start : start + step] for name in input_names]
            valid_rows = len(pieces[0])
            if batch > 0 and valid_rows < batch:
                # A graph of a fixed batch takes no fewer rows.
                pieces = [np.concatenate([p, np.repeat(p[-1:], batch - valid_rows, axis=0)]) for p in pieces]
            given = graph(*(torch.from_numpy(np.ascontiguousarray(p)) for p in pieces))
            results = given if isinstance(given, (tuple, list)) else (given,)
            batches.append([r[:valid_rows].double().numpy() for r in results])
    columns = (np.concatenate(column) for column in zip(*batches, strict=True))
    write_arrays(answers, dict(zip(output_names, columns, strict=False)))
    return f"torch {torch.__version__}"
