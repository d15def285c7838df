"""What the platforms' own converters and quantizers make of the same models, called directly, as their pages show it.

Each function runs in a child process; what it raises is the peer's answer. Their files are run by their own runtimes
(Core ML's by our evaluator, as ours are), and judged by the same rule.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.zoo_environment import FOLDER
from benchmarks.zoo_ours import compared, expected_answers
from benchmarks.zoo_source import Arrays, model_file, split_rows
from edgewright.errors import EdgewrightError

__all__ = ["PEERS", "PLATFORM_INT8", "Direct", "Peer", "peers_of", "tried"]

Peer = str


@dataclass(frozen=True)
class Direct:
    """A converter called directly: its column, the sources it takes, and the peer whose file it starts from, if any."""

    platform: str
    precision: str
    sources: tuple[str, ...]
    starts_from: Mapping[str, Peer] = field(default_factory=dict)


_EXPORTERS = {".pt2": "torch.onnx", ".keras": "tf2onnx"}
PEERS: dict[Peer, Direct] = {
    "coremltools": Direct("ios", "float32", (".pt2", ".keras")),
    "coremltools linear_quantize_weights": Direct(
        "ios", "int8", (".pt2", ".keras"), {".pt2": "coremltools", ".keras": "coremltools"}
    ),
    "litert-torch": Direct("android", "float32", (".pt2",)),
    "ai-edge-quantizer": Direct("android", "int8", (".pt2",), {".pt2": "litert-torch"}),
    "TFLiteConverter": Direct("android", "float32", (".keras",)),
    "TFLiteConverter int8": Direct("android", "int8", (".keras",)),
    "torch.onnx": Direct("edge_device", "float32", (".pt2",)),
    "tf2onnx": Direct("edge_device", "float32", (".keras",)),
    "onnxruntime quantize_static": Direct("edge_device", "int8", (".pt2", ".keras", ".onnx"), _EXPORTERS),
    "onnx2tf": Direct("android", "float32", (".pt2", ".keras", ".onnx"), _EXPORTERS),
}
PLATFORM_INT8: dict[str, tuple[Peer, ...]] = {
    "ios": ("coremltools linear_quantize_weights",),
    "android": ("ai-edge-quantizer", "TFLiteConverter int8"),
    "edge_device": ("onnxruntime quantize_static",),
}
"""The platform's own quantizer for each source."""


def peers_of(suffix: str) -> list[Peer]:
    """Those that take such a file, each after the one that it starts from."""
    return [peer for peer, direct in PEERS.items() if suffix in direct.sources]


def tried(peer: Peer, folder: str, work: str, answers: str) -> dict[str, Any]:
    """Convert by a peer and compare; files stay in ``work`` for the peers that start from them."""
    source, out = model_file(Path(folder)), Path(work)
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    made = _CONVERT[peer](source, out)
    seconds = time.perf_counter() - began
    rows = split_rows(Path(folder) / "data.npz", "test")
    size = sum(f.stat().st_size for f in made.rglob("*")) if made.is_dir() else made.stat().st_size
    try:
        given = list(_answers(made, rows).values())
    except EdgewrightError as e:  # our evaluator's limit, not the peer's
        return {"seconds": seconds, "size_bytes": size, "status": "unchecked", "message": str(e)}
    found = _matched(expected_answers(Path(answers)), given)
    return {"seconds": seconds, "size_bytes": size, **compared(Path(answers), dict(enumerate(found)))}


def _matched(expected: list[NDArray[Any]], found: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """In the peer's favour: its outputs in whatever order, and channels last, are put as the source has them."""
    if len(expected) != len(found):
        return found
    left, placed = list(found), []
    for wanted in expected:
        candidates = [(i, turned) for i, value in enumerate(left) for turned in _turned(value, wanted.shape)]
        if not candidates:
            return found
        nearest = min(candidates, key=lambda pair: float(np.abs(pair[1] - wanted).max(initial=0.0)))
        placed.append(nearest[1])
        left.pop(nearest[0])
    return placed


def _turned(value: NDArray[Any], shape: tuple[int, ...]) -> list[NDArray[Any]]:
    both = [value, np.moveaxis(value, -1, 1)] if value.ndim > 2 else [value]
    return [one for one in both if one.shape == shape]


def _answers(made: Path, rows: Arrays) -> Arrays:
    match made.suffix:
        case ".tflite":
            return _tflite(made, rows)
        case ".mlpackage":
            return _core_ml(made, rows)
        case _:
            from benchmarks.zoo_source import answer

            return {str(i): value for i, value in enumerate(answer(made, rows))}


def _row(rows: Arrays, i: int) -> list[NDArray[Any]]:
    return [column[i : i + 1] for column in rows.values()]


def _tflite(made: Path, rows: Arrays) -> Arrays:
    """By place: signatures are called args_0, args_1, … or by the inputs' own names, and listed by name."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(made), num_threads=1)
    interpreter.allocate_tensors()
    entries, exits = interpreter.get_input_details(), interpreter.get_output_details()
    placed = [entries[i] for i in _in_order(interpreter, entries, "inputs", list(rows))]
    exits = [exits[i] for i in _in_order(interpreter, exits, "outputs", [])]
    found: list[list[NDArray[Any]]] = []
    for i in range(len(next(iter(rows.values())))):
        for entry, value in zip(placed, _row(rows, i), strict=True):
            interpreter.set_tensor(entry["index"], _fitted(value, entry))
        interpreter.invoke()
        found.append([_real(interpreter.get_tensor(e["index"]).copy(), e) for e in exits])
    return {str(i): np.concatenate(values) for i, values in enumerate(zip(*found, strict=True))}


def _in_order(interpreter: Any, details: list[dict[str, Any]], side: str, names: list[str]) -> list[int]:
    """Positions in ``details`` in the model's order: a signature's names sort as its arguments are numbered."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        return list(range(len(details)))
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    by_name = runner.get_input_details() if side == "inputs" else runner.get_output_details()
    keys = names if set(names) == set(by_name) else sorted(by_name, key=_numbered)
    place = {detail["index"]: i for i, detail in enumerate(details)}
    return [place[by_name[key]["index"]] for key in keys]


def _numbered(name: str) -> tuple[str, int]:
    start, _, number = name.rpartition("_")
    return (start, int(number)) if number.isdigit() else (name, 0)


def _fitted(value: NDArray[Any], entry: dict[str, Any]) -> NDArray[Any]:
    """In the dtype that the file asks for; channels last where the file has them there and the source has not."""
    shape = tuple(entry["shape"])
    moved = np.moveaxis(value, 1, -1) if value.shape != shape and value.ndim > 2 else value
    if moved.shape != shape:
        raise ValueError(f"the file takes rows of shape {shape}, the source of shape {value.shape}")
    scale, zero_point = entry["quantization"]
    if scale:
        limits = np.iinfo(entry["dtype"])
        moved = np.clip(np.round(moved / scale) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(moved).astype(entry["dtype"])


def _real(value: NDArray[Any], entry: dict[str, Any]) -> NDArray[Any]:
    """The number that an integer of the file stands for."""
    scale, zero_point = entry["quantization"]
    return (value.astype(np.float32) - zero_point) * np.float32(scale) if scale else value


def _core_ml(made: Path, rows: Arrays) -> Arrays:
    from edgewright.export.mil_evaluator import evaluate
    from edgewright.export.mlpackage import tensors

    declared = tensors(str(made))
    entries, exits = ([spec["name"] for spec in declared[side]] for side in ("inputs", "outputs"))
    given = dict(zip(entries, rows.values(), strict=True))
    dtypes = {spec["name"]: spec["dtype"] for spec in declared["inputs"]}
    found = evaluate(made, {name: value.astype(dtypes[name]) for name, value in given.items()})
    return {name: found[name] for name in exits}


def _coremltools(source: Path, out: Path) -> Path:
    import coremltools as ct

    path = out / "coremltools.mlpackage"
    options = {"compute_precision": ct.precision.FLOAT32, "minimum_deployment_target": ct.target.iOS17}
    if source.suffix == ".pt2":
        import torch

        model = ct.convert(torch.export.load(source).run_decompositions({}), **options)
    else:
        model = ct.convert([_concrete(source)], source="tensorflow", **options)
    shutil.rmtree(path, ignore_errors=True)
    model.save(str(path))
    return path


def _concrete(source: Path) -> Any:
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(source)
    signature = [tf.TensorSpec([1, *i.shape[1:]], i.dtype, name=i.name) for i in model.inputs]
    function = tf.function(lambda *inputs: model(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
    return function.get_concrete_function(*signature)


def _coremltools_int8(_: Path, out: Path) -> Path:
    import coremltools as ct
    from coremltools.optimize import coreml as compression

    model = ct.models.MLModel(str(out / "coremltools.mlpackage"), skip_model_load=True)
    config = compression.OptimizationConfig(compression.OpLinearQuantizerConfig(mode="linear_symmetric"))
    path = out / "coremltools_int8.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    compression.linear_quantize_weights(model, config).save(str(path))
    return path


def _litert_torch(source: Path, out: Path) -> Path:
    import litert_torch
    import torch

    rows = split_rows(source.parent / "data.npz", "test")
    module = torch.export.load(source).module()
    example = tuple(torch.from_numpy(value.copy()) for value in _row(rows, 0))
    path = out / "litert_torch.tflite"
    litert_torch.convert(module, example).export(str(path))
    return path


def _ai_edge_quantizer(source: Path, out: Path) -> Path:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    plain = out / "litert_torch.tflite"
    interpreter = Interpreter(str(plain))
    key = next(iter(interpreter.get_signature_list()))
    details = interpreter.get_signature_runner(key).get_input_details()
    entries = sorted(details, key=_numbered)
    rows = split_rows(source.parent / "data.npz", "train")
    typed = {e: v.astype(details[e]["dtype"]) for e, v in zip(entries, rows.values(), strict=True)}
    count = len(next(iter(rows.values())))
    calibration = {key: [dict(zip(entries, _row(typed, i), strict=True)) for i in range(count)]}
    work = quantizer.Quantizer(str(plain))
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    ranges = work.calibrate(calibration)
    path = out / "ai_edge_quantizer.tflite"
    path.unlink(missing_ok=True)
    work.quantize(ranges).export_model(str(path))
    return path


def _tflite_converter(source: Path, out: Path, *, integer: bool = False) -> Path:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([_concrete(source)])
    if integer:
        rows = split_rows(source.parent / "data.npz", "train")
        count = len(next(iter(rows.values())))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (_row(rows, i) for i in range(count))
    path = out / f"tflite_converter{'_int8' if integer else ''}.tflite"
    path.write_bytes(converter.convert())
    return path


def _tflite_converter_int8(source: Path, out: Path) -> Path:
    return _tflite_converter(source, out, integer=True)


def _torch_onnx(source: Path, out: Path) -> Path:
    import torch

    path = out / "exported.onnx"
    torch.onnx.export(torch.export.load(source), (), str(path), external_data=False)
    return path


def _tf2onnx(source: Path, out: Path) -> Path:
    import keras
    import tensorflow as tf
    import tf2onnx

    model = keras.saving.load_model(source)
    signature = [tf.TensorSpec([None, *i.shape[1:]], i.dtype, name=i.name) for i in model.inputs]
    function = tf.function(
        lambda *inputs: model(list(inputs) if len(inputs) > 1 else inputs[0], training=False), input_signature=signature
    )
    path = out / "exported.onnx"
    tf2onnx.convert.from_function(function, input_signature=signature, opset=18, output_path=str(path))
    return path


def _onnx_of(source: Path, out: Path) -> Path:
    """The source itself where it is ONNX, else what the framework's exporter made of it."""
    path = source if source.suffix == ".onnx" else out / "exported.onnx"
    if not path.exists():
        raise FileNotFoundError("the framework's exporter gave no ONNX file to start from")
    return path


def _quantize_static(source: Path, out: Path) -> Path:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, path = out / "prepared.onnx", out / "quantized.onnx"
    quant_pre_process(str(_onnx_of(source, out)), str(prepared), skip_symbolic_shape=True)
    session = onnxruntime.InferenceSession(str(_onnx_of(source, out)), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    rows = split_rows(source.parent / "data.npz", "train")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One training row after another."""

        def __init__(self) -> None:
            count = len(next(iter(rows.values())))
            self._rows = iter([dict(zip(names, _row(rows, i), strict=True)) for i in range(count)])

        def get_next(self) -> Any:
            return next(self._rows, None)

    def quantize(**extra: bool) -> None:
        quantize_static(
            str(prepared), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, extra_options=extra,
        )  # fmt: skip

    try:
        quantize()
    except ValueError:  # ONNX Runtime 1.32 compares a vector of scales as one number: in its favour, without that step
        quantize(QDQDisableWeightAdjustForInt32Bias=True)
    return path


def _onnx2tf(source: Path, out: Path) -> Path:
    """In an environment of its own, which pins other versions of numpy and onnx.

    It fetches 20 pictures to compare its layers on; without a network it takes them from the folder that it runs in.
    """
    made = out / "onnx2tf"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    pictures = np.random.default_rng(0).uniform(size=(20, 128, 128, 3)).astype(np.float32)
    np.save(made / "calibration_image_sample_data_20x128x128x3_float32.npy", pictures)
    program = FOLDER / "onnx2tf" / "bin" / "onnx2tf"
    source = _onnx_of(source, out).resolve()
    command = [str(program.resolve()), "-i", str(source), "-o", str(made.resolve()), "-b", "1", "-n"]
    ended = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
    files = sorted(made.glob("*_float32.tflite"))
    if not files:
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if "ERROR" in line or "Error" in line]
        raise RuntimeError(lines[-1][:300] if lines else f"no file made, exit code {ended.returncode}")
    return files[0]


_CONVERT: dict[Peer, Callable[[Path, Path], Path]] = {
    "coremltools": _coremltools,
    "coremltools linear_quantize_weights": _coremltools_int8,
    "litert-torch": _litert_torch,
    "ai-edge-quantizer": _ai_edge_quantizer,
    "TFLiteConverter": _tflite_converter,
    "TFLiteConverter int8": _tflite_converter_int8,
    "torch.onnx": _torch_onnx,
    "tf2onnx": _tf2onnx,
    "onnxruntime quantize_static": _quantize_static,
    "onnx2tf": _onnx2tf,
}
