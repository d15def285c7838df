"""What the device runtime costs: ``make bench-runtime`` writes ``benchmarks/results/runtime.json``.

Times a call are medians, interleaved with the bare inference session in one loop; everything else is wall time on the
machine named in the result. ``faults`` are the figures of ``make faults``.
"""

import argparse
import json
import lzma
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults import running_cloud
from edgewright.deploy.patches import encoders
from edgewright_runtime.cloud import CloudClient
from edgewright_runtime.hybrid import Hybrid
from edgewright_runtime.manifest import Monitoring
from edgewright_runtime.monitor import Monitor
from edgewright_runtime.offline import OfflineModel, sync
from edgewright_runtime.outbox import Outbox
from edgewright_runtime.predictor import Predictor
from tests.bundles import table_parts
from tests.cloud.postgres import postgres_binaries, running_postgres

_RESULTS = Path(__file__).parent / "results"
_ROW = {"tenure": 1.0, "charges": 2.0, "contract": "One year"}
_RECORD = {"kind": "prediction", "time_s": 1.7e9, "release": "stable.12", "label": "high", "confidence": 0.91}


def main() -> None:
    """Measure everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_RESULTS / "runtime.json")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of repetitions")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        result: dict[str, Any] = {
            "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
            **calls(home, int(5000 * options.scale)),
            **imports(),
            "logged_per_s": logging(home, options.scale),
            "sync_per_s": syncing(home, int(20_000 * options.scale)),
            "patch_bytes": patches(),
            "faults": _faults(),
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def calls(home: Path, runs: int) -> dict[str, Any]:
    """Microseconds a call: the bare session, and what each layer adds to it."""
    bundle = table_parts(home / "model").build()
    predictor = Predictor(bundle.artifact.path)
    session = predictor.backend._session  # type: ignore[attr-defined]
    feeds = {"x": np.array([[1.0, 2.0, 1.0]], np.float32)}
    hybrid = Hybrid(predictor, "stable.1")
    monitor = Monitor(lambda _: None, Monitoring(), device="d", release="r", bundle="b")

    class Nowhere:
        def add(self, _: object) -> str:
            return ""

    cached = OfflineModel(hybrid, predictor.manifest, "stable.1", Nowhere())  # type: ignore[arg-type]
    cached.predict(_ROW)
    took = _interleaved(
        {
            "bare": lambda: session.run(["scores"], feeds),
            "encoded": lambda: predictor.predict_encoded(feeds),
            "row": lambda: predictor.predict(_ROW),
            "hybrid": lambda: hybrid.predict(_ROW),
            "cache_hit": lambda: cached.predict(_ROW),
            "monitor": lambda: monitor.record(1.5, 0.9),
        },
        runs,
    )
    return {
        "bare_session_us": took["bare"],
        "predict_overhead_us": round(took["encoded"] - took["bare"], 2),
        "predict_row_overhead_us": round(took["row"] - took["bare"], 2),
        "hybrid_overhead_us": round(took["hybrid"] - took["bare"], 2),
        "cache_hit_us": took["cache_hit"],
        "monitor_us": took["monitor"],
    }


def _interleaved(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    times: dict[str, list[int]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            began = time.perf_counter_ns()
            function()
            times[name].append(time.perf_counter_ns() - began)
    return {name: round(statistics.median(taken) / 1000, 2) for name, taken in times.items()}


def imports() -> dict[str, float]:
    """Milliseconds and peak megabytes of a fresh process that imports the package, and the whole device."""
    found = {}
    for key, module in (("import", "edgewright_runtime"), ("import_device", "edgewright_runtime.device")):
        code = (
            f"import time; began = time.perf_counter(); import {module}; ms = (time.perf_counter() - began) * 1000\n"
            "import resource; print(ms, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        )
        # ru_maxrss of a child counts its parent's memory from before the exec: a small interpreter stands between.
        between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
        runs = [
            subprocess.run([sys.executable, "-c", between, code], check=True, capture_output=True, text=True).stdout
            for _ in range(7)
        ]
        values = [tuple(float(v) for v in run.split()) for run in runs]
        found[f"{key}_ms"] = round(statistics.median(v[0] for v in values), 1)
        found[f"{key}_mb"] = round(statistics.median(v[1] for v in values), 1)
    return found


def logging(home: Path, scale: float) -> dict[str, float]:
    """Durable records a second: one commit each, eight threads that share commits, a hundred a commit."""
    outbox = Outbox(home / "log.db", max_bytes=1 << 30)
    single, threaded, batched = (int(n * scale) for n in (1000, 4000, 20_000))
    found = {"one_thread": _rate(single, lambda: [outbox.add(_RECORD) for _ in range(single)])}

    def eight() -> None:
        work = [threading.Thread(target=lambda: [outbox.add(_RECORD) for _ in range(threaded // 8)]) for _ in range(8)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()

    found["eight_threads"] = _rate(threaded // 8 * 8, eight)
    found["hundred_a_commit"] = _rate(
        batched // 100 * 100, lambda: [outbox.add_many([_RECORD] * 100) for _ in range(batched // 100)]
    )
    outbox.close()
    return found


def syncing(home: Path, count: int) -> dict[str, Any]:
    """Records a second from an outbox into the cloud's database, each confirmed."""
    found: dict[str, Any] = {"sqlite": _synced(home / "sqlite.db", f"sqlite:///{home / 'cloud.db'}", count)}
    if postgres_binaries() is None:
        return {**found, "postgresql": None, "postgresql_skipped": "PostgreSQL is not installed (Debian: postgresql)"}
    with running_postgres() as url:
        return {**found, "postgresql": _synced(home / "postgresql.db", url, count)}


def _synced(path: Path, url: str, count: int) -> float:
    outbox = Outbox(path, max_bytes=1 << 30)
    for _ in range(count // 500):
        outbox.add_many([_RECORD] * 500)
    with running_cloud(url) as (address, token, database):
        rate = _rate(count // 500 * 500, lambda: sync(outbox, CloudClient(address, token, timeout_s=30), {}))
        if database.count() != count // 500 * 500:
            raise AssertionError(f"the cloud counted {database.count()} of {count // 500 * 500} records")
    outbox.close()
    return rate


def _rate(count: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(count / (time.perf_counter() - began), 1)


def patches() -> dict[str, dict[str, int]]:
    """Bytes of each way to bring a device from one version of a digits classifier to the next."""
    base, tuned, head = _trained()
    scales = {name: float(np.abs(w).max()) / 127 for name, w in base.items() if w.ndim == 2}
    own = {name: float(np.abs(w).max()) / 127 for name, w in tuned.items() if w.ndim == 2}
    pairs = {
        "all_layers_float32": (_onnx(base), _onnx(tuned)),
        "head_only_float32": (_onnx(base), _onnx(head)),
        "int8_frozen_scales": (_onnx(base, scales), _onnx(tuned, scales)),
        "int8_new_scales": (_onnx(base, scales), _onnx(tuned, own)),
    }
    return {name: _sizes(*pair) for name, pair in pairs.items()}


def _sizes(old: bytes, new: bytes) -> dict[str, int]:
    import zstandard

    found = {"full_zstd_19": len(zstandard.ZstdCompressor(level=19).compress(new)), "full_xz": len(lzma.compress(new))}
    found |= {codec: len(build("m.onnx", old, new)) for codec, build in encoders().items()}
    found["zstd_patch_from"] = found.pop("zstd")
    return found


def _trained() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A classifier of scikit-learn's digits, the same fine-tuned on other digits, and with a new head only."""
    import torch
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    layers = [torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(512, 10))

    def train(rows: slice, parameters: Any, epochs: int, rate: float) -> None:
        optimizer = torch.optim.Adam(parameters, rate)
        for _ in range(epochs):
            for start in range(rows.start, rows.stop, 64):
                batch = slice(start, min(start + 64, rows.stop))
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()

    def weights() -> dict[str, np.ndarray]:
        return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}

    train(slice(0, 1200), model.parameters(), 15, 1e-3)
    base = weights()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    train(slice(1200, len(x)), model.parameters(), 3, 1e-4)
    tuned = weights()
    model.load_state_dict(state)
    train(slice(1200, len(x)), model[-1].parameters(), 3, 1e-4)
    return base, tuned, weights()


def _onnx(weights: dict[str, np.ndarray], scales: dict[str, float] | None = None) -> bytes:
    """The classifier as an ``.onnx`` file; with ``scales`` its matrices are stored as int8."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers, last = [], [], "x"
    for layer in ("0", "2", "4"):
        matrix, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        name = f"w{layer}"
        if scales is None:
            initializers.append(numpy_helper.from_array(matrix, name))
        else:
            scale = np.float32(scales[f"{layer}.weight"])
            stored = np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8)
            initializers += [
                numpy_helper.from_array(stored, f"{name}_q"),
                numpy_helper.from_array(scale.reshape(()), f"{name}_s"),
            ]
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s"], [name]))
        initializers.append(numpy_helper.from_array(bias, f"b{layer}"))
        nodes.append(helper.make_node("Gemm", [last, name, f"b{layer}"], [f"y{layer}"], transB=1))
        last = f"y{layer}"
        if layer != "4":
            nodes.append(helper.make_node("Relu", [last], [f"r{layer}"]))
            last = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 10])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _faults() -> dict[str, Any]:
    path = _RESULTS / "faults.json"
    if not path.exists():
        return {"kills": None, "note": "run: make faults"}
    found = json.loads(path.read_text())
    return {key: found[key] for key in ("kills", "power_cuts", "acknowledged", "lost", "half", "control_lost")}


def _cpu() -> str:
    rows = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    return named[0] if named else platform.machine()


if __name__ == "__main__":
    main()
