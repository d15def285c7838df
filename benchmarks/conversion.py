"""What a conversion takes, for networks of the size of MobileNetV2 and ResNet-50 (random weights).

``make bench-conversion`` runs it and writes ``benchmarks/results/conversion.json``. Each step of a conversion runs in a
child process, whose peak memory is VmHWM. What it adds is counted twice: ``added_mb`` over the same step for a network
of 5,000 parameters, which has the frameworks imported, their compilers started and nothing to convert; and
``over_imports_mb`` over a process that imports every module which that step had imported in the end, and does nothing.
Limits, from the project's plan: what a conversion adds stays below six times the model's float32 size, and none takes 3
minutes; held against the first figure, the second stands beside it.
"""

import argparse
import contextlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from edgewright.artifact import Artifact, Dataset, Exported, Format, ImportedModel, ModelTask, Precision
from edgewright.child import ChildRun, called, deferred, run_in_child
from edgewright.export import converter, export
from edgewright.forking import Frameworks
from edgewright.profile import Platform
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import TensorSpec

RESULT = Path(__file__).parent / "results" / "conversion.json"
IMAGE = {"tiny": (3, 8, 8), "mobilenet_v2": (3, 224, 224), "resnet_50": (3, 224, 224)}
CALIBRATION_ROWS = 16
MEMORY_LIMIT_RATIO = 6.0
TIME_LIMIT_S = 180.0
SELF = "benchmarks.conversion"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(NETWORKS), action="append", help="default: all")
    parser.add_argument("--check", action="store_true", help="exit 1 where a limit is missed")
    arguments = parser.parse_args()
    measure("tiny")  # its peaks are what the frameworks take
    results = {name: measure(name) for name in arguments.model or ("mobilenet_v2", "resnet_50")}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    limits = {"memory_ratio": MEMORY_LIMIT_RATIO, "seconds": TIME_LIMIT_S}
    RESULT.write_text(json.dumps({"limits": limits, "models": results}, indent=2) + "\n")
    missed = [
        f"{n} {c['platform']} {c['precision']}" for n, r in results.items() for c in r["conversions"] if not c["met"]
    ]
    print("missed:", ", ".join(missed) or "none")
    if arguments.check and missed:
        sys.exit(1)


def measure(name: str) -> dict[str, Any]:
    """Every conversion of one network, each of a whole export, from an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        model, dataset, store = _imported(name, Path(folder))
        float32_mb = (
            run_in_child(partial(_ours("parameter_bytes"), _graph(model).path), returns=int, what="counting").value
            / 2**20
        )
        found = []
        for platform in Platform:
            for precision in (Precision.FLOAT32, Precision.INT8):
                taken = _timed(model, dataset, platform, precision, store)
                for key in ("added", "over_imports"):
                    taken[f"{key}_ratio"] = round(max(s[f"{key}_mb"] for s in taken["steps"]) / float32_mb, 2)
                taken["met"] = taken["added_ratio"] < MEMORY_LIMIT_RATIO and taken["seconds"] < TIME_LIMIT_S
                ratios = f"added {taken['added_ratio']} x, over imports {taken['over_imports_ratio']} x"
                print(name, platform, precision, taken["seconds"], "s,", ratios, flush=True)
                found.append(taken)
    return {"float32_mb": round(float32_mb, 1), "conversions": found}


def _timed(
    model: ImportedModel, dataset: Dataset, platform: Platform, precision: Precision, store: Store
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    with _Watched(f"{platform} {precision}", steps):
        began = time.perf_counter()
        exported: Exported = export(model, dataset, platform, precision, store)
        seconds = time.perf_counter() - began
    return {
        "platform": platform.value,
        "precision": precision.value,
        "seconds": round(seconds, 1),
        "size_mb": round(exported.artifact.size_bytes / 2**20, 2),
        "steps": steps,
    }


# Of the tiny network, by export and step: its peak, and that of its imports alone.
_floors_mb: dict[tuple[str, str], tuple[float, float]] = {}


class _Watched:
    """While it is entered, each child process that the exports start is noted with its time and memory."""

    def __init__(self, export_name: str, steps: list[dict[str, Any]]) -> None:
        self._export, self._steps = export_name, steps

    def __enter__(self) -> None:
        setattr(converter, "run_in_child", self._run)  # noqa: B010 - a name that it imports

    def __exit__(self, *_: object) -> None:
        setattr(converter, "run_in_child", run_in_child)  # noqa: B010

    def _run(self, job: "partial[Any]", **options: Any) -> ChildRun[Any]:
        target = f"{job.func.__module__}:{job.func.__qualname__}"
        options["frameworks"] = Frameworks.NONE  # what a fork shares with its server is not counted as its own
        key = (self._export, target)
        if key not in _floors_mb:  # the first network that takes this step is the tiny one
            watched = partial(_ours("with_modules"), target, job.args, job.keywords)
            noted = run_in_child(watched, **options | {"returns": dict[str, Any]})
            importing = partial(_ours("import_all"), noted.value["modules"])
            alone = run_in_child(importing, **options | {"returns": None})
            _floors_mb[key] = (noted.peak_memory_mb or 0.0, alone.peak_memory_mb or 0.0)
            value = TypeAdapter(options["returns"]).validate_python(noted.value["value"])
            done = ChildRun(value, noted.seconds, noted.peak_memory_mb)
        else:
            done = run_in_child(job, **options)
        floor, imports = _floors_mb[key]
        peak = done.peak_memory_mb or 0.0
        step = {
            "step": target.removeprefix("edgewright.export."),
            "seconds": round(done.seconds, 1),
            "peak_mb": round(peak),
            "added_mb": round(peak - floor, 1),
            "over_imports_mb": round(peak - imports, 1),
        }
        self._steps.append(step)
        return done


def _ours(function: str) -> Any:
    return deferred(f"{SELF}:{function}")


def with_modules(target: str, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """In a child: take a step, and name every module that is imported afterwards."""
    return {
        "value": called(target, args, kwargs),
        "modules": {name: found is not None for name, found in sys.modules.items()},
    }


def import_all(modules: dict[str, bool]) -> None:
    """In a child: import modules, as far as they are there by that name, and nothing else; False: kept from import."""
    sys.modules.update({name: None for name, there in modules.items() if not there})  # type: ignore[misc]
    for name in modules:
        # Packages make modules under names that no import finds, and some refuse a second context.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def parameter_bytes(path: Path) -> int:
    """In a child: bytes of the float32 parameters of a torch graph."""
    from edgewright.intake import torch_graph

    return sum(4 * t.numel() for t in torch_graph.load(path).state_dict().values() if t.is_floating_point())


def _graph(model: ImportedModel) -> Artifact:
    assert model.graph is not None
    return model.graph


def _imported(name: str, folder: Path) -> tuple[ImportedModel, Dataset, Store]:
    """The network through intake: ONNX, then the importer's graph; random rows to calibrate with."""
    store = Store(folder / "store")
    saved, graph, data = folder / f"{name}.onnx", folder / f"{name}.graph", folder / "data.npz"
    run_in_child(
        partial(_ours("build"), name=name, onnx_path=str(saved), graph_path=str(graph)),
        what=f"building {name}",
        writes=[saved.parent, graph.parent],
    )
    rows = np.random.default_rng(0).normal(size=(CALIBRATION_ROWS, *IMAGE[name])).astype(np.float32)
    np.savez(data, **{"calibration.x.image": rows})
    onnx_artifact = store.put(saved, Format.ONNX)
    model = ImportedModel(
        name=name,
        source=onnx_artifact,
        onnx=onnx_artifact,
        graph=store.put(graph, Format.TORCH_GRAPH, parent=onnx_artifact.digest),
        inputs=(TensorSpec("image", (-1, *IMAGE[name]), "float32"),),
        outputs=(TensorSpec("logits", (-1, 1000), "float32"),),
        task=ModelTask.CLASSIFICATION,
    )
    rows_kept = Dataset(
        artifact=store.put(data, Format.DATASET), calibration_rows=CALIBRATION_ROWS, validation_rows=0, test_rows=0
    )
    return model, rows_kept, store


def build(name: str, onnx_path: str, graph_path: str) -> None:
    """In a child: random weights, exported to ONNX and imported back."""
    import onnx
    import torch

    from edgewright.intake import torch_graph
    from edgewright.intake.onnx_graph import import_onnx

    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    torch.onnx.export(
        network,
        (torch.zeros(2, *IMAGE[name]),),
        onnx_path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    torch_graph.save(import_onnx(onnx.load(onnx_path)), Path(graph_path))


def mobilenet_v2() -> Any:
    """Sandler et al., arXiv 1801.04381, table 2: 3.5 million parameters."""
    from torch import nn

    def block(
        inside: int, outside: int, kernel: int, stride: int, groups: int = 1, *, linear: bool = False
    ) -> list[nn.Module]:
        layers = [
            nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outside),
        ]
        return layers if linear else [*layers, nn.ReLU6()]

    class Inverted(nn.Module):
        def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
            super().__init__()
            hidden = inside * expansion
            first = block(inside, hidden, 1, 1) if expansion > 1 else []
            rest = [*block(hidden, hidden, 3, stride, hidden), *block(hidden, outside, 1, 1, linear=True)]
            self.layers, self.residual = nn.Sequential(*first, *rest), stride == 1 and inside == outside

        def forward(self, x: Any) -> Any:
            return x + self.layers(x) if self.residual else self.layers(x)

    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    layers, channels = block(3, 32, 3, 2), 32
    for expansion, outside, repeats, stride in table:
        for i in range(repeats):
            layers.append(Inverted(channels, outside, stride if i == 0 else 1, expansion))
            channels = outside
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, *block(channels, 1280, 1, 1), *tail)


def resnet_50() -> Any:
    """He et al., arXiv 1512.03385, table 1: 25.6 million parameters."""
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inside: int, width: int, stride: int) -> None:
            super().__init__()
            outside = width * 4
            self.layers = nn.Sequential(
                nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside),
            )  # fmt: skip
            direct = stride == 1 and inside == outside
            project = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
            self.shortcut, self.activation = nn.Identity() if direct else project, nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.activation(self.layers(x) + self.shortcut(x))

    layers: list[Any] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(repeats):
            layers.append(Bottleneck(channels, width, stride if i == 0 else 1))
            channels = width * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def tiny() -> Any:
    """As many kinds of layers as the others, and no more."""
    from torch import nn

    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000))


NETWORKS: dict[str, Callable[[], Any]] = {"tiny": tiny, "mobilenet_v2": mobilenet_v2, "resnet_50": resnet_50}

if __name__ == "__main__":
    main()
