"""Faster as exported: channels pruned under distillation, then int8, against the same network in float32.

A part of ``make bench-compression``. The network is an ordinary CNN of 36 million multiply-accumulates, trained here on
MNIST's training images as long as its own accuracy gains from it. (LeNet-5, at 2.3 million, is too small for the
question: ONNX Runtime takes longer for its int8 file than for float32.) Each format's two files are timed interleaved
in one process, on one thread; their accuracy is that of the exported files on rows that nothing here trains, calibrates
or chooses with, and the loss is judged by McNemar's test against the source model on the same rows.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgewright import optimize, validate
from edgewright.artifact import Dataset, Exported, ImportedModel, Precision
from edgewright.data import DataSpec
from edgewright.export import export
from edgewright.intake import take_in
from edgewright.intake.torch_graph import load
from edgewright.measurement import Evaluation
from edgewright.optimize.prune_channels import multiply_accumulates
from edgewright.optimize.training import TrainingRows, fit
from edgewright.profile import DeviceProfile, load_device
from edgewright.recipe import PruneChannels, Training
from edgewright.store import Store

__all__ = ["AIM_SPEEDUP", "latency_part"]

AIM_SPEEDUP = 4.0
_SIGNIFICANT = 0.05
_DEVICES = ("generic_android", "generic_edge_device")
_CHANNELS = (32, 64, "pool", 128, "pool", 128)
_TRAIN = Training(epochs=6, learning_rate=2e-3, augment=0.3, precision="bfloat16")
_PRUNE = PruneChannels(
    ratio=0.69,  # 16, 32, 80 and 80 channels of 32, 64, 128 and 128
    importance="taylor",
    scope="layer",
    channel_multiple=16,
    steps=2,
    training=Training(epochs=6, learning_rate=1.5e-3, augment=0.3, distill=0.9, precision="bfloat16"),
)


def latency_part(training: TrainingRows, images: NDArray[np.float32], labels: NDArray[Any]) -> dict[str, Any]:
    """Train, prune, export and time; ``images`` (N, 1, 28, 28) and ``labels`` (N,) are the held-out rows."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        store = Store(scratch / "store")
        source = train_source(training, scratch / "mnist_cnn.pt2")
        trained_s = time.perf_counter() - began
        taken = take_in(source, _data(training, images, labels, scratch / "mnist.npz"), store)
        if taken.model.graph is None:
            raise RuntimeError(f"the network was not imported: {taken.model.graph_refusal}")
        graph = optimize.apply(taken.model.graph, _PRUNE, taken.dataset, store)
        pruned = taken.model.model_copy(update={"graph": graph})
        pruned_s = time.perf_counter() - began - trained_s
        targets = [_target(taken.model, pruned, taken.dataset, load_device(name), store) for name in _DEVICES]
        operations = {
            name: multiply_accumulates(load(made.path), training.inputs[:1])
            for name, made in (("float32", taken.model.graph), ("pruned", graph))
        }
    return {
        "model": "MNIST CNN",
        "aim_speedup": AIM_SPEEDUP,
        "multiply_accumulates": operations,
        "parameters": {"train": _TRAIN.model_dump(), "prune_channels": _PRUNE.model_dump()},
        "seconds": {"training of the source": round(trained_s), "pruning and distillation": round(pruned_s)},
        "threads": torch.get_num_threads(),
        "rows": {"training": len(training.inputs), "held out": len(images)},
        "targets": targets,
        "met": all(target["met"] for target in targets),
    }


def train_source(training: TrainingRows, path: Path) -> Path:
    """A trained network as a user would bring it: a program of torch.export."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 1
    for step in _CHANNELS:
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(width, step, 3, padding=1, bias=False), nn.BatchNorm2d(step), nn.ReLU()]
            width = step
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    fit(network, training, _TRAIN)
    batch = {"input": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(2, 1, 28, 28),), dynamic_shapes=batch), path)
    return path


def _data(training: TrainingRows, images: NDArray[np.float32], labels: NDArray[Any], path: Path) -> DataSpec:
    rows = {"x_train": training.inputs.numpy(), "y_train": training.targets.numpy(), "x_test": images, "y_test": labels}
    np.savez(path, **rows)
    return DataSpec(path=path)


def _target(
    source: ImportedModel, pruned: ImportedModel, dataset: Dataset, device: DeviceProfile, store: Store
) -> dict[str, Any]:
    def exported(model: ImportedModel, precision: Precision) -> Exported:
        return export(
            model,
            dataset,
            device.platform,
            precision,
            store,
            instruction_set=device.instruction_set,
            dot_products=device.dot_products,
        )

    baseline = exported(source, Precision.FLOAT32)
    stages = {
        "int8 alone": exported(source, Precision.INT8),
        "pruned": exported(pruned, Precision.FLOAT32),
        "pruned, int8": exported(pruned, Precision.INT8),
    }
    before = validate.evaluate(source, dataset, baseline)
    entries = [{"name": n} | _figures(source, baseline, made, dataset, device) for n, made in stages.items()]
    return {
        "format": baseline.artifact.format.value,
        "float32_bytes": baseline.artifact.size_bytes,
        "float32_error_percent": _error_percent(before),
        "stages": entries,
        "met": entries[-1]["speedup_low"] >= AIM_SPEEDUP and not entries[-1]["significant_loss"],
    }


def _figures(
    source: ImportedModel, baseline: Exported, made: Exported, dataset: Dataset, device: DeviceProfile
) -> dict[str, Any]:
    judged = validate.evaluate(source, dataset, made)
    timed = validate.measure(baseline, made, dataset, device)
    drop, ratio = judged.drop, timed.ratio
    if drop is None or ratio is None or not (timed.baseline.latency and timed.candidate.latency):
        raise RuntimeError(f"{made.artifact.path.name} was not measured: {timed.not_measured or judged.not_measured}")
    return {
        "bytes": made.artifact.size_bytes,
        "download_bytes": timed.candidate.download_bytes,
        "baseline_p50_ms": timed.baseline.latency.p50_ms,
        "p50_ms": timed.candidate.latency.p50_ms,
        "speedup": round(1 / ratio.value, 2),
        "speedup_low": round(1 / ratio.high, 2),
        "speedup_high": round(1 / ratio.low, 2),
        "noise_percent": timed.noise_percent,
        "error_percent": _error_percent(judged),
        "accuracy_drop_percent": round(drop.percent, 3),
        "drop_low_percent": round(drop.low_percent, 3),
        "drop_high_percent": round(drop.high_percent, 3),
        "p_value": drop.p_value,
        "significant_loss": drop.percent > 0 and drop.p_value < _SIGNIFICANT,
        "measured_on": timed.target,
    }


def _error_percent(judged: Evaluation) -> float | None:
    return round(100 * (1 - judged.accuracy.value), 2) if judged.accuracy else None
