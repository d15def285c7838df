"""What the device runtime costs: ``make bench-runtime`` writes ``benchmarks/results/runtime.json``.

Times a call are medians, interleaved with the bare inference session in one loop; everything else is wall time on the
machine named in the result. Imports are of compiled files, as pip installs them. ``faults`` and ``networks`` are the
figures of ``make faults`` and ``make networks``.
"""

import argparse
import compileall
import functools
import json
import lzma
import os
import platform
import shutil
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

import edgewright_runtime
from benchmarks.local_cloud import running_cloud
from edgewright.codec.download import transfer_form
from edgewright.release import publish
from edgewright.release.patches import encoders
from edgewright_runtime.bundle.monitoring import Monitoring
from edgewright_runtime.health.monitor import Monitor
from edgewright_runtime.health.outbox import Outbox
from edgewright_runtime.predict.cloud import CloudClient
from edgewright_runtime.predict.hybrid import Hybrid
from edgewright_runtime.predict.offline import OfflineModel, sync
from edgewright_runtime.predict.predictor import Predictor
from tests.bundles import image_parts, table_parts
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
            **litert_calls(home, int(5000 * options.scale)),
            **imports(home),
            "memory_mb": memory(home),
            "logged_predict_us": logged_calls(home, int(500 * options.scale)),
            "logged_per_s": logging(home, options.scale),
            "sync_per_s": syncing(home, int(20_000 * options.scale)),
            "patch_bytes": patches(home),
            "faults": _faults(),
            "networks": _recorded("networks.json"),
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
    cached.answer(_ROW)
    took = _interleaved(
        {
            "bare": lambda: session.run(["scores"], feeds),
            "encoded": lambda: predictor.predict_encoded(feeds),
            "row": lambda: predictor.predict(_ROW),
            "hybrid": lambda: hybrid.answer(_ROW),
            "cache_hit": lambda: cached.answer(_ROW),
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


def litert_calls(home: Path, runs: int) -> dict[str, float]:
    """The same for a small CNN in LiteRT."""
    predictor = Predictor(image_parts(home / "image").build().artifact.path)
    interpreter = predictor.backend._interpreter  # type: ignore[attr-defined]
    feeds = {"x": np.random.default_rng(0).random((1, 1, 8, 8), np.float32)}
    predictor.predict_encoded(feeds)
    into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def bare() -> None:
        interpreter.set_tensor(into, feeds["x"])
        interpreter.invoke()
        interpreter.get_tensor(out)

    took = _interleaved({"bare": bare, "encoded": lambda: predictor.predict_encoded(feeds)}, runs)
    return {"bare_litert_us": took["bare"], "predict_overhead_litert_us": round(took["encoded"] - took["bare"], 2)}


def _interleaved(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    times: dict[str, list[int]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            began = time.perf_counter_ns()
            function()
            times[name].append(time.perf_counter_ns() - began)
    return {name: round(statistics.median(taken) / 1000, 2) for name, taken in times.items()}


def memory(home: Path) -> dict[str, float]:
    """Peak megabytes of a fresh process: a bare session that has answered, and a device that has, with its outbox."""
    repository, root = home / "memory", home / "memory_device"
    bundle = table_parts(home / "memory_model").build()
    publish(bundle, str(repository), "stable")
    model = bundle.artifact.path / "churn.onnx"
    bare = (
        "import numpy as np, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(model)!r}, providers=['CPUExecutionProvider'])\n"
        "for _ in range(1000): session.run(None, {'x': np.ones((1, 3), np.float32)})\n"
    )
    device = (
        "from pathlib import Path\n"
        "from edgewright_runtime.device import Device, Settings\n"
        f"device = Device(Settings(Path({str(root)!r}), {str(repository)!r}))\n"
        f"for n in range(1000): device.predict({{**{_ROW!r}, 'tenure': n / 1000}})\n"
    )
    return {name: _in_fresh_process(code)[1] for name, code in (("bare_session", bare), ("device", device))}


_IMPORTS = {
    "import_numpy": "import numpy",
    "import_predictor": "from edgewright_runtime import Predictor",
    "import_device": "from edgewright_runtime import Device",
}


def imports(home: Path) -> dict[str, float]:
    """Milliseconds and peak megabytes until a fresh process has what it works with; numpy, which is in each, alone."""
    package = Path(edgewright_runtime.__file__).parent
    shutil.copytree(package, home / "installed" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(str(home / "installed"), quiet=1)
    taken: dict[str, list[tuple[float, float]]] = {key: [] for key in _IMPORTS}
    for _ in range(15):
        for key, work in _IMPORTS.items():
            taken[key].append(_in_fresh_process(work, home / "installed"))
    found = {}
    for key, values in taken.items():
        found[f"{key}_ms"] = round(statistics.median(ms for ms, _ in values), 1)
        found[f"{key}_mb"] = round(statistics.median(mb for _, mb in values), 1)
    return found


def _in_fresh_process(work: str, path: Path | None = None) -> tuple[float, float]:
    """Milliseconds that lines of Python take in a process of their own, and its peak megabytes."""
    code = (
        f"import time; began = time.perf_counter()\n{work}\nms = (time.perf_counter() - began) * 1000\n"
        "import resource; print(ms, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    # ru_maxrss of a child counts its parent's memory from before the exec: a small interpreter stands between.
    between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-c", between, code]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=path)
    ms, mb = (float(value) for value in run.stdout.split())
    return ms, round(mb, 1)


def logged_calls(home: Path, runs: int) -> dict[str, float]:
    """Microseconds of an answer whose record is on the disk when it comes, and of one that does not wait for that."""
    bundle = table_parts(home / "logged").build()
    predictor = Predictor(bundle.artifact.path)
    models = {
        name: OfflineModel(
            Hybrid(predictor, "stable.1"),
            predictor.manifest,
            "stable.1",
            Outbox(home / f"logged_{name}.db", max_bytes=1 << 30),
            cache_capacity=0,
            wait_for_log=waits,
        )
        for name, waits in (("waiting", True), ("soon", False))
    }
    return _interleaved({name: functools.partial(model.answer, _ROW) for name, model in models.items()}, runs)


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


def patches(home: Path) -> dict[str, dict[str, int]]:
    """Bytes of each way to bring a device from one version of a digits classifier to the next.

    ``full_release`` is what a release sends where no patch applies: the smaller of ``.ewz`` and xz.
    """
    base, tuned, head = _trained()
    scales = {name: float(np.abs(w).max()) / 127 for name, w in base.items() if w.ndim == 2}
    own = {name: float(np.abs(w).max()) / 127 for name, w in tuned.items() if w.ndim == 2}
    pairs = {
        "all_layers_float32": (_onnx(base), _onnx(tuned)),
        "head_only_float32": (_onnx(base), _onnx(head)),
        "int8_frozen_scales": (_onnx(base, scales), _onnx(tuned, scales)),
        "int8_new_scales": (_onnx(base, scales), _onnx(tuned, own)),
    }
    return {name: _sizes(*pair, home) for name, pair in pairs.items()}


def _sizes(old: bytes, new: bytes, home: Path) -> dict[str, int]:
    import zstandard

    (home / "new.onnx").write_bytes(new)
    found = {"full_zstd_19": len(zstandard.ZstdCompressor(level=19).compress(new)), "full_xz": len(lzma.compress(new))}
    found |= {codec: len(build("m.onnx", old, new)) for codec, build in encoders().items()}
    found["zstd_patch_from"] = found.pop("zstd")
    found["full_release"] = len(transfer_form(home / "new.onnx"))
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
    found = _recorded("faults.json")
    keys = ("kills", "power_cuts", "acknowledged", "lost", "half", "control_lost", "in_golden_check", "survivors")
    return {key: found.get(key) for key in keys} | {key: found[key] for key in found if key == "note"}


def _recorded(name: str) -> dict[str, Any]:
    path = _RESULTS / name
    if not path.exists():
        return {"note": f"run: make {path.stem}"}
    return dict(json.loads(path.read_text()))


def _cpu() -> str:
    rows = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    return named[0] if named else platform.machine()


if __name__ == "__main__":
    main()
