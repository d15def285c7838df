"""Deep Compression (Han, Mao, Dally, arXiv 1510.00149) on its two networks, compression without any training, and a
network made faster (`benchmarks.compression_latency`).

``make bench-compression`` runs it and writes ``benchmarks/results/compression.json``, the plots and the ``.ewz`` files.
Sizes are of the ``.ewz`` file on disk, against parameters times four bytes; errors are those of the ONNX model that
`edgewright_runtime.codec.ewz` rebuilds from that file, run in ONNX Runtime, on the 10,000 test images, which nothing
else reads. Training sees neither them nor the 5,000 validation rows; the file that is kept is that of the seed with the
lowest validation error. ``--fast`` is a short version for CI, with its own figures.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import nn

from benchmarks.compression_latency import latency_part
from edgewright.codec.containers import find_tensors
from edgewright.codec.writer import Coder, Encoded, encode
from edgewright.optimize.compact_weights import compact_weights
from edgewright.optimize.prune import prune
from edgewright.optimize.train_quantization import train_quantization
from edgewright.optimize.training import TrainingRows
from edgewright.recipe import CompactWeights, Prune, Training, TrainQuantization
from edgewright_runtime.codec.ewz import rebuild

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
RESULTS = HERE / "results"
VALIDATION_ROWS = 5000
PARTS = ("untrained", "trained", "latency")
Run = tuple[dict[str, Any], list[dict[str, Any]], Encoded]
# What LeNet-300-100 has to reach in the short version, too: trained; and without training the codec's smaller file.
MIN_RATIO, LARGEST_ERROR_PERCENT = 80, 1.64
NNC = "ISO/IEC 15938-17 reference codec, measured on the same files"


@dataclass(frozen=True)
class Reference:
    """A network of the paper, how it is compressed here, and what others reached."""

    name: str
    file: str
    network: Callable[[], nn.Sequential]
    prune: Prune
    quantize: TrainQuantization
    prices: tuple[float, ...]
    paper: dict[str, dict[str, float]]
    codec: tuple[tuple[int, float], ...]


def lenet_300_100() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def lenet_5() -> nn.Sequential:
    features = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


FULL = (
    Reference(
        "LeNet-300-100",
        "lenet_300_100.pt2",
        lenet_300_100,
        Prune(sparsity=0.972, scope="rate", ramp=0.6, training=Training(epochs=60, learning_rate=2e-3, augment=0.6)),
        TrainQuantization(
            levels=2,
            bias_levels=15,
            training=Training(epochs=24, learning_rate=1e-3, augment=0.6, distill=0.5),
        ),
        (2e-7, 8e-8, 3e-8),
        {"P": {"ratio": 12}, "P+Q": {"ratio": 32}, "P+Q+H": {"ratio": 40, "test_error_percent": 1.58}},
        ((26_138, 1.84), (49_815, 1.76)),
    ),
    Reference(
        "LeNet-5",
        "lenet_5_caffe.pt2",
        lenet_5,
        Prune(
            sparsity=0.9865,
            scope="rate",
            ramp=0.6,
            training=Training(epochs=32, learning_rate=2e-3, augment=0.6, precision="bfloat16"),
        ),
        TrainQuantization(
            levels=4,
            bias_levels=15,
            training=Training(epochs=10, learning_rate=5e-4, augment=0.6, precision="bfloat16", distill=0.5),
        ),
        (1.5e-7, 3e-8, 5.5e-9),
        {"P": {"ratio": 12}, "P+Q": {"ratio": 33}, "P+Q+H": {"ratio": 39, "test_error_percent": 0.74}},
        ((13_059, 2.14), (48_588, 0.80)),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fast",
        action="store_true",
        help="LeNet-300-100 for a few epochs, one price, no latency; under 2 minutes; a file of its own",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", choices=[r.name for r in FULL], help="this one only; the rest of the file stays")
    parser.add_argument("--part", choices=PARTS, help="this part only; the rest of the file stays")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.fast and arguments.part == "latency":
        parser.error("--part latency has no fast version: it trains a network for minutes")
    if not (SHARED / "models").is_dir():
        print("skipped: the reference models and MNIST are not there (folder 'shared' beside the checkout)")
        return
    torch.set_num_threads(arguments.threads)
    # The averages of masked weights' gradients fade below the normal range, where processors are slow.
    torch.set_flush_denormal(True)
    data = Mnist()
    path = RESULTS / ("compression_fast.json" if arguments.fast else "compression.json")
    result = Result(path)
    references = fast() if arguments.fast else [r for r in FULL if arguments.model in {None, r.name}]
    parts = (arguments.part,) if arguments.part else PARTS[:2] if arguments.fast or arguments.model else PARTS
    for reference in references:
        if "untrained" in parts:
            result.update("without_training", untrained(reference, data, keep=not arguments.fast))
        if "trained" in parts:
            seeds = range(1 if arguments.fast else arguments.seeds)
            for entry in trained(reference, data, seeds, keep=not arguments.fast):
                result.update("models", entry)
    if "latency" in parts:
        result.put("latency", latency_part(data.training, data.test_images, data.test_labels))
    if not arguments.fast:
        plot(result.content, RESULTS / "compression.png")
    print(path.read_text())
    if arguments.fast and (missed := missed_limits(result.content)):
        sys.exit("\n".join(missed))


def missed_limits(content: dict[str, Any]) -> list[str]:
    """What the short version's figures miss, one line each."""
    missed = [
        f"{entry['model']}, trained: {entry['ratio']}x at {entry['test_error_percent']}% error; allowed is "
        f"{MIN_RATIO}x and more at {LARGEST_ERROR_PERCENT}% and less"
        for entry in content.get("models", [])
        if entry["ratio"] < MIN_RATIO or entry["test_error_percent"] > LARGEST_ERROR_PERCENT
    ]
    for entry in content.get("without_training", []):
        largest, worst = min((p["file_bytes"], p["test_error_percent"]) for p in entry["reference"]["points"])
        if not any(p["file_bytes"] <= largest and p["test_error_percent"] <= worst for p in entry["points"]):
            missed.append(f"{entry['model']}, without training: no file of {largest} B and less at {worst}% and less")
    return missed


def fast() -> list[Reference]:
    full = FULL[0]
    brief = {"learning_rate": 3e-3, "augment": 0.3}
    return [
        Reference(
            full.name,
            full.file,
            full.network,
            Prune(sparsity=0.95, scope="rate", ramp=0.6, training=Training(epochs=10, **brief)),
            TrainQuantization(levels=3, training=Training(epochs=5, distill=0.5, **brief)),
            (8e-8,),
            full.paper,
            full.codec,
        )
    ]


class Mnist:
    """Training rows without the validation rows that the reference models' makers kept aside; and the test images."""

    def __init__(self) -> None:
        with np.load(SHARED / "data" / "mnist.npz") as arrays:
            x, y = (arrays[f"{n}_train"] for n in "xy")
            self.test_images, self.test_labels = self._images(arrays["x_test"]), arrays["y_test"]
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1)).numpy()
        kept, rest = order[:VALIDATION_ROWS], order[VALIDATION_ROWS:]
        self.validation_images, self.validation_labels = self._images(x[kept]), y[kept]
        self.training = TrainingRows(
            torch.from_numpy(self._images(x[rest])), torch.from_numpy(y[rest].astype(np.int64))
        )

    @staticmethod
    def _images(raw: np.ndarray) -> np.ndarray:
        return (raw.astype(np.float32) / 255)[:, None]


class Result:
    """The JSON file: parts are replaced by model, so that one can be run again alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def content(self) -> dict[str, Any]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def put(self, part: str, entry: Any) -> None:
        """Replace a part."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({**self.content, part: entry}, indent=2) + "\n")

    def update(self, part: str, entry: dict[str, Any]) -> None:
        """Replace the entry of a part that is of the same model."""
        kept = [e for e in self.content.get(part, []) if e["model"] != entry["model"]]
        self.put(part, sorted([*kept, entry], key=lambda e: [r.name for r in FULL].index(e["model"])))


def trained(reference: Reference, data: Mnist, seeds: range, *, keep: bool) -> Iterator[dict[str, Any]]:
    """Prune, train quantization, code: one run for each seed; after each, the entry of the runs so far."""
    baseline = load(reference)
    runs: list[Run] = []
    for seed in seeds:
        began, began_cpu = time.perf_counter(), time.process_time()
        pruned = prune(baseline, seeded(reference.prune, seed), data.training)
        quantized = train_quantization(pruned, seeded(reference.quantize, seed + 100), data.training)
        stages = [
            stage("P", pruned, data, "fixed"),
            stage("P+Q", quantized, data, "fixed"),
            stage("P+Q+H", quantized, data, "huffman"),
            stage("P+Q+context coder", quantized, data, "auto"),
        ]
        coded = encode_model(quantized, "auto")
        run = {
            "seed": seed,
            "file_bytes": len(coded.data),
            "validation_error_percent": error(rebuild(coded.data), data.validation_images, data.validation_labels),
            "test_error_percent": stages[-1]["test_error_percent"],
            "non_zero_weights": sum(int((p != 0).sum()) for p in quantized.parameters()),
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(time.process_time() - began_cpu, 1),
        }
        print(reference.name, run, flush=True)
        runs.append((run, stages, coded))
        yield entry_of(reference, baseline, data, runs, keep=keep)


def entry_of(reference: Reference, baseline: nn.Sequential, data: Mnist, runs: list[Run], *, keep: bool) -> Any:
    best, stages, coded = min(runs, key=lambda r: float(r[0]["validation_error_percent"]))
    size = parameter_bytes(baseline)
    entry = {
        "model": reference.name,
        "parameter_bytes": size,
        "file_bytes": len(coded.data),
        "ratio": round(size / len(coded.data), 1),
        "baseline_error_percent": error(onnx_of(baseline), data.test_images, data.test_labels),
        "test_error_percent": best["test_error_percent"],
        "seeds": [run for run, _, _ in runs],
        "spread": spread([run for run, _, _ in runs]),
        "stages": stages,
        "parts_bytes": {
            "codebooks": coded.codebook_bytes,
            "indices": coded.index_bytes,
            "everything else": coded.skeleton_bytes,
        },
        "rebuild_seconds": rebuild_seconds(coded.data),
        "paper": reference.paper,
        "parameters": {"prune": reference.prune.model_dump(), "quantize": reference.quantize.model_dump()},
        "threads": torch.get_num_threads(),
    }
    if keep:
        keep_file(reference, coded, "trained", entry)
    return entry


def untrained(reference: Reference, data: Mnist, *, keep: bool) -> dict[str, Any]:
    """Quantize by rate and distortion, and code: a point for each price of a bit."""
    baseline = load(reference)
    points = []
    for price in reference.prices:
        began = time.perf_counter()
        compacted = compact_weights(baseline, CompactWeights(price=price), data.training.inputs)
        coded = encode_model(compacted, "auto")
        rebuilt = rebuild(coded.data)
        point = {
            "price": price,
            "file_bytes": len(coded.data),
            "ratio": round(parameter_bytes(baseline) / len(coded.data), 1),
            "validation_error_percent": error(rebuilt, data.validation_images, data.validation_labels),
            "test_error_percent": error(rebuilt, data.test_images, data.test_labels),
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(reference.name, point, flush=True)
        points.append(point)
        if keep:
            keep_file(reference, coded, f"untrained_{price:g}", point)
    codec = [{"file_bytes": size, "test_error_percent": percent} for size, percent in reference.codec]
    return {
        "model": reference.name,
        "parameter_bytes": parameter_bytes(baseline),
        "baseline_error_percent": error(onnx_of(baseline), data.test_images, data.test_labels),
        "points": points,
        "reference": {"codec": NNC, "points": codec},
    }


def load(reference: Reference) -> nn.Sequential:
    """The trained network as ordinary layers: the exported program holds the same tensors in the same order."""
    program = torch.export.load(SHARED / "models" / reference.file)
    network = reference.network()
    tensors = [program.state_dict[name] for name in program.graph_signature.parameters]
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network.eval()


def seeded(params: Any, seed: int) -> Any:
    return params.model_copy(update={"training": params.training.model_copy(update={"seed": seed})})


def parameter_bytes(model: nn.Module) -> int:
    return 4 * sum(p.numel() for p in model.parameters())


def onnx_of(model: nn.Sequential) -> bytes:
    """The network as an ONNX file, with the shortest names: a file's skeleton counts here."""
    nodes, tensors, at = [], [], "x"
    for number, layer in enumerate(model):
        out = "y" if number == len(model) - 1 else f"t{number}"
        names = []
        for kind, parameter in layer.named_parameters():
            names.append(f"{kind[0]}{number}")
            tensors.append(numpy_helper.from_array(parameter.detach().numpy(), names[-1]))
        operator, attributes = {
            nn.Flatten: ("Flatten", {}),
            nn.ReLU: ("Relu", {}),
            nn.Linear: ("Gemm", {"transB": 1}),
            nn.Conv2d: ("Conv", {}),
            nn.MaxPool2d: ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        }[type(layer)]
        nodes.append(helper.make_node(operator, [at, *names], [out], **attributes))
        at = out
    ends = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 28, 28]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 10]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(content)
    return content.SerializeToString()


def encode_model(model: nn.Sequential, coder: Coder) -> Encoded:
    content = onnx_of(model)
    return encode(content, find_tensors(content), coder=coder)


def error(model: bytes, images: np.ndarray, labels: np.ndarray) -> float:
    """Percent of wrong answers of an ONNX model."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    answers = np.concatenate([session.run(None, {"x": part})[0].argmax(1) for part in np.array_split(images, 20)])
    return round(100 * float((answers != labels).mean()), 2)


def stage(name: str, model: nn.Sequential, data: Mnist, coder: Coder) -> dict[str, Any]:
    coded = encode_model(model, coder)
    return {
        "name": name,
        "file_bytes": len(coded.data),
        "ratio": round(parameter_bytes(model) / len(coded.data), 1),
        "test_error_percent": error(rebuild(coded.data), data.test_images, data.test_labels),
    }


def spread(runs: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"runs": len(runs)}
    for key in ("file_bytes", "test_error_percent"):
        values = [run[key] for run in runs]
        out[key] = {"mean": round(statistics.fmean(values), 2), "min": min(values), "max": max(values)}
    return out


def rebuild_seconds(data: bytes) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        rebuild(data)
        times.append(time.perf_counter() - began)
    return round(min(times), 3)


def keep_file(reference: Reference, coded: Encoded, kind: str, entry: dict[str, Any]) -> None:
    path = RESULTS / f"{Path(reference.file).stem}_{kind}.ewz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(coded.data)
    entry["file"] = path.name


def plot(content: dict[str, Any], path: Path) -> None:
    """Error over size for each model: the stages, the points without training, the paper and the reference codec."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(FULL), figsize=(12, 5))
    for axis, reference in zip(axes, FULL, strict=True):
        draw(axis, reference, content)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(axis: Any, reference: Reference, content: dict[str, Any]) -> None:
    for entry in (e for e in content.get("models", []) if e["model"] == reference.name):
        sizes = [s["file_bytes"] for s in entry["stages"]]
        axis.plot(sizes, [s["test_error_percent"] for s in entry["stages"]], "o-", label="pruned, quantized, coded")
        axis.axhline(entry["baseline_error_percent"], color="grey", linewidth=0.8, label="uncompressed")
        axis.plot(
            entry["parameter_bytes"] / reference.paper["P+Q+H"]["ratio"],
            reference.paper["P+Q+H"]["test_error_percent"],
            "k*",
            label="Deep Compression (paper)",
        )
    for entry in (e for e in content.get("without_training", []) if e["model"] == reference.name):
        points = [(p["file_bytes"], p["test_error_percent"]) for p in entry["points"]]
        axis.plot(*zip(*points, strict=True), "s--", label="without training")
        axis.plot(*zip(*reference.codec, strict=True), "r^", label="NNC reference codec")
    axis.set(xscale="log", xlabel="file, bytes", ylabel="test error, %", title=reference.name)
    axis.legend()


if __name__ == "__main__":
    main()
