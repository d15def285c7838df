"""Where an inference spends its time, operator by operator, by the runtime's own profiler."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgewright_runtime.bench.answer import OperatorTime
from edgewright_runtime.errors import BackendUnavailableError

__all__ = ["operator_times"]

_NODE = "Node"
_KERNEL = "_kernel_time"


def operator_times(
    path: Path, fmt: str, feeds: Mapping[str, np.ndarray], *, threads: int, runs: int, scratch: Path
) -> tuple[OperatorTime, ...]:
    """Mean microseconds of one inference by operator type, the slowest first, after one warm-up run.

    ``feeds`` are arrays by the file's own input names. ONNX Runtime only: LiteRT's Python package has no profiler.

    Raises:
        BackendUnavailableError: the format's runtime has no profiler here.
    """
    if fmt != "onnx":
        raise BackendUnavailableError(f"the runtime of '{fmt}' files has no profiler in Python")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(scratch / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(runs + 1):
        session.run(None, dict(feeds))
    return _by_operator(Path(session.end_profiling()), runs)


def _by_operator(profile: Path, runs: int) -> tuple[OperatorTime, ...]:
    spent: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text()):
        # The profile has the session's own events, too.
        if event.get("cat") == _NODE and event["name"].endswith(_KERNEL):
            spent[event["args"]["op_name"]].append(float(event["dur"]))
    rows = []
    for name, durations in spent.items():
        calls = len(durations) // (runs + 1)
        # Events come in the order of the runs; the first run of each node is the warm-up.
        rows.append(OperatorTime(name, calls, sum(durations[calls:]) / runs))
    return tuple(sorted(rows, key=lambda row: -row.mean_us))
