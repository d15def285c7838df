"""How far validation's own verdicts can be trusted: repeatability, false alarms, a planted slowdown, overhead, counts.

``make bench-validation`` runs it and writes ``benchmarks/results/validation.json``. Verdicts depend on how quiet the
machine is: the load average of the run stands in the result. Without qemu the Arm part is left out, with the reason.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "validation.json"
WIDTH, LAYERS, PLANTED = 192, 60, 6  # six more layers of sixty: a slowdown of a tenth
REPEATS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--skip-arm", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    began = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("EDGEWRIGHT_HOME", str(Path(folder) / "home"))
        found = {
            "repeats": arguments.repeats,
            **verdicts(Path(folder), arguments.repeats),
            **overhead(Path(folder)),
            **({} if arguments.skip_arm else arm(Path(folder))),
            "load_average": {"before": began, "after": os.getloadavg()[0], "cores": os.cpu_count()},
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    print(arguments.out.read_text())


def chain(path: Path, layers: int, name: str) -> Path:
    """``layers`` dense layers with ReLU; equal seeds give equal weights, ``name`` only other bytes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        matrix = (chance.normal(size=(WIDTH, WIDTH)) * np.sqrt(2 / WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"h{i + 1}"]))
    shape = ["N", WIDTH]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def exported(path: Path, layers: int) -> Any:
    from edgewright.artifact import Exported, Format, Precision
    from edgewright.store import Store
    from edgewright_runtime.bundle.manifest import TensorSpec

    return Exported(
        artifact=Store().put(path, Format.ONNX),
        precision=Precision.FLOAT32,
        inputs=(TensorSpec("h0", (-1, WIDTH), "float32"),),
        outputs=(TensorSpec(f"h{layers}", (-1, WIDTH), "float32"),),
        runtime="onnxruntime",
        runtime_floor="1.18.0",
    )


def verdicts(folder: Path, repeats: int) -> dict[str, Any]:
    """Twenty A/A comparisons of two equal files, and twenty with six layers more."""
    from edgewright.artifact import Dataset, Format
    from edgewright.profile import load_device
    from edgewright.store import Store
    from edgewright.validate import measure

    rows = np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32)
    np.savez(folder / "data.npz", **{"test.x.h0": rows, "test.y": np.zeros(64), "test.reference.y": np.zeros((64, 1))})
    dataset = Dataset(
        artifact=Store().put(folder / "data.npz", Format.DATASET), calibration_rows=0, validation_rows=0, test_rows=64
    )
    baseline = exported(chain(folder / "a.onnx", LAYERS, "a"), LAYERS)
    equal = exported(chain(folder / "b.onnx", LAYERS, "b"), LAYERS)
    slower = exported(chain(folder / "c.onnx", LAYERS + PLANTED, "c"), LAYERS + PLANTED)
    device = load_device("generic_edge_device")
    taken: dict[str, list[Any]] = {"equal": [], "slower": []}
    began = time.perf_counter()
    for i in range(repeats):
        for name, candidate in (("equal", equal), ("slower", slower)):
            taken[name].append(measure(baseline, candidate, dataset, device))
            print(i, name, taken[name][-1].verdict, taken[name][-1].ratio, flush=True)
    said = {name: [found.verdict for found in runs] for name, runs in taken.items()}
    agreed = [Counter(words).most_common(1)[0][1] / repeats for words in said.values()]
    return {
        "verdict_agreement": min(agreed),
        "aa_no_difference": said["equal"].count("no difference that this machine can show") / repeats,
        "planted_slowdown_found": said["slower"].count("slower") / repeats,
        "planted_ratio_median": statistics.median(found.ratio.value for found in taken["slower"]),
        "noise_percent_median": statistics.median(found.noise_percent for found in taken["equal"]),
        "seconds_per_comparison": (time.perf_counter() - began) / (2 * repeats),
    }


def overhead(folder: Path) -> dict[str, float]:
    """What the bench calls an inference against the runtime's own loop, on the very same session, in turns.

    Lower quartiles, as everywhere here: what disturbs the machine only ever adds time.
    """
    from edgewright_runtime import backends
    from edgewright_runtime.bench.timing import time_block

    backend = backends.load(chain(folder / "overhead.onnx", LAYERS, "overhead"), "onnx")
    session = backend._session  # another session would lie elsewhere in memory, which alone moves it by some percent
    feeds = {"h0": np.ones((1, WIDTH), np.float32)}
    block, ours, bare = 20, [], []
    for _ in range(1000):
        ours.append(sum(time_block(backend, [feeds], 0, block)) / block)
        session.run(None, feeds)  # as the bench does before it times a block
        began = time.perf_counter_ns()
        for _ in range(block):
            session.run(None, feeds)
        bare.append((time.perf_counter_ns() - began) / block)
    low_ours, low_bare = (float(np.percentile(taken, 25)) for taken in (ours, bare))
    return {
        "bench_overhead_ratio": low_ours / low_bare - 1,
        "bench_overhead_us": (low_ours - low_bare) / 1000,
        "overhead_model_us": low_bare / 1000,
    }


def arm(folder: Path) -> dict[str, Any]:
    """Executed instructions of the demo's models on each core that has a runtime for them; what emulation costs."""
    from edgewright.validate.targets.arm import CORES, EmulatedArm
    from edgewright.validate.targets.arm_system import SYSTEMS, missing_tools, set_up

    if reason := missing_tools():
        return {"arm_instructions": None, "arm_skipped": reason}
    roots, setup_s, counts, runs = {}, {}, {}, []
    for architecture in SYSTEMS:
        began = time.perf_counter()
        roots[architecture] = set_up(architecture)
        setup_s[architecture] = time.perf_counter() - began
    for name, spec in demo_files(folder):
        for core, facts in CORES.items():
            if spec.models[0].format not in SYSTEMS[facts.architecture].formats:
                continue
            totals = []
            for _ in range(2):
                began = time.perf_counter()
                found = EmulatedArm(core, roots[facts.architecture]).instructions(spec, f"counting {name}")
                runs.append(time.perf_counter() - began)
                totals.append(found.total)
            spread = (max(totals) - min(totals)) / min(totals)
            counts.setdefault(name, {})[core] = {
                **found.model_dump(exclude={"core"}),
                "total": min(totals),
                "spread": spread,
            }
            print(name, core, counts[name][core], flush=True)
    return {"arm_instructions": counts, "arm_setup_s": setup_s, "arm_run_s": statistics.median(runs), **device(folder)}


def device(folder: Path) -> dict[str, Any]:
    """A whole emulated device of 512 MB: set-up, boot to SSH, one measurement, and what the model holds there."""
    from edgewright.validate.targets import device_image
    from edgewright.validate.targets.answers import expect_figures
    from edgewright.validate.targets.emulated_device import booted
    from edgewright_runtime.bench.answer import ColdFigures
    from edgewright_runtime.bench.run import BenchModel, BenchSpec, write_arrays

    if reason := device_image.missing_tools():
        return {"device": None, "device_skipped": reason}
    began = time.perf_counter()
    device_image.set_up()
    ready = time.perf_counter()
    rows = folder / "device_rows.npz"
    write_arrays(rows, {"h0": np.ones((1, WIDTH), np.float32)})
    model = BenchModel(str(chain(folder / "device.onnx", LAYERS, "device")), "onnx")
    with booted("cortex-a53", 512, 4) as target:
        up = time.perf_counter()
        answer = target.run(BenchSpec("cold", (model,), str(rows)), "loading", 300)
        cold = expect_figures(answer, ColdFigures, "loading").figures
        done = time.perf_counter()
    return {
        "device": {
            "setup_s": ready - began,
            "boot_s": up - ready,
            "run_s": done - up,
            "peak_memory_mb": cold.peak_memory_mb,
            "added_memory_mb": cold.added_memory_mb,
            "model_mb": Path(model.path).stat().st_size / (1 << 20),
        }
    }


def demo_files(folder: Path) -> list[tuple[str, Any]]:
    """The demo's CNN in float32 and int8, and its boosted trees, for Android and for an Arm board."""
    from edgewright import export, intake
    from edgewright.artifact import Precision
    from edgewright.child import deferred, run_in_child
    from edgewright.data import load_data_spec
    from edgewright.profile import Platform
    from edgewright.store import Store
    from edgewright.validate.rows import read_rows
    from edgewright_runtime.bench.run import BenchModel, BenchSpec, write_arrays

    wanted = (
        ("make_digits_cnn", "digits_cnn.pt2", "digits.npz", (Precision.FLOAT32, Precision.INT8)),
        ("make_breast_cancer", "breast_cancer.pkl", "breast_cancer.yaml", (Precision.FLOAT32,)),
    )
    files = []
    for maker, model, data, precisions in wanted:
        making = partial(deferred(f"edgewright.demo:{maker}"), folder)
        run_in_child(making, what=f"training {model}", writes=[folder])
        taken = intake.take_in(folder / model, load_data_spec(folder / data), Store())
        held_out, rows = read_rows(taken.dataset), folder / f"{model}.rows.npz"
        write_arrays(rows, {name: array[:4] for name, array in held_out.inputs.items()})
        for platform in (Platform.ANDROID, Platform.EDGE_DEVICE):
            for precision in precisions:
                made = export.export(taken.model, taken.dataset, platform, precision, Store())
                named = BenchModel(str(made.artifact.path), made.artifact.format.value, tuple(held_out.inputs))
                scratch = str(folder / "outputs.npz")
                spec = BenchSpec("marked", (named,), str(rows), outputs=scratch, min_runs=3)
                files.append((f"{model.partition('.')[0]} {precision.value} {made.artifact.format.value}", spec))
    return files


if __name__ == "__main__":
    main()
