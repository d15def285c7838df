"""What a bundle says of itself: one definition, for the workstation that writes it and the device that reads it.

A manifest is JSON. Everything the device needs to run the model stands in it; nothing that changes between
two builds of the same inputs does (no time, no path, no host). Every other file of the bundle is listed with its
SHA-256, so the digest of the manifest is the identity of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.monitoring import Monitoring, parse_monitoring
from edgewright_runtime.preprocessing import Column, Preprocessing, Words, parse_preprocessing
from edgewright_runtime.strict_json import Fields, canonical_json, parse_object, text_item

__all__ = [
    "CONFIDENCE_BINS",
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Calibration",
    "Column",
    "Figures",
    "FileEntry",
    "Golden",
    "Kernels",
    "Limits",
    "Lineage",
    "Manifest",
    "Preprocessing",
    "Processor",
    "RuntimeNeed",
    "Scores",
    "TensorSpec",
    "Words",
]

SCHEMA_VERSION = 3
MANIFEST_NAME = "manifest.json"
CONFIDENCE_BINS = 10

_MAX_FILES = 10_000
_MAX_RANK = 8
_MAX_DIMENSION = 1 << 31
_PLATFORMS = ("ios", "android", "edge_device")
_INSTRUCTION_SETS = ("arm64", "armv7", "x86_64")
_FORMATS = ("tflite", "mlpackage", "onnx")
_PRECISIONS = ("float32", "float16", "int8", "dynamic_int8", "int4")
_TASKS = ("classification", "regression", "none")
_DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    ``shape`` holds -1 for the batch axis where it is free; ``scale`` and ``zero_point`` stand where the
    tensor is stored as integers: ``real = scale * (stored - zero_point)``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: its path below the bundle's folder, its length and its SHA-256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Kernels:
    """Which arithmetic kernels run the model; None is the inference runtime's own choice.

    ``xnnpack``: LiteRT's XNNPACK delegate, or ONNX Runtime's provider where its build has one. ``kleidiai``: ONNX
    Runtime's KleidiAI kernels for Arm, where its build has them. ``bfloat16``: its matrix products in bfloat16 on Arm
    cores that have it: faster, less exact. ``int8``: its 8-bit kernels; without them it computes in float32 what the
    rounded numbers of an int8 file say, exactly and slowly.
    """

    xnnpack: bool | None = None
    kleidiai: bool | None = None
    bfloat16: bool | None = None
    int8: bool | None = None


@dataclass(frozen=True)
class Processor:
    """Which processor an int8 file was made for and validated on.

    ``dot_products``: it has instructions for them in 8 bits (Arm's dotprod, VNNI). ``largest_pair_sum`` is the largest
    sum of two products, next to each other in a layer's sum, that calibration rows gave: where it exceeds 32,767, x86
    without VNNI answers otherwise.
    """

    instruction_set: str
    dot_products: bool
    largest_pair_sum: int


@dataclass(frozen=True)
class RuntimeNeed:
    """What loads the model on the device, the oldest version that can, and the accelerator it needs (None: a CPU).

    ``threads`` and ``kernels`` are the device profile's: the model was measured with them. ``processor`` is None where
    the file answers alike on any.
    """

    name: str
    minimum_version: str
    accelerator: str | None = None
    threads: int = 1
    kernels: Kernels = Kernels()
    processor: Processor | None = None


@dataclass(frozen=True)
class Scores:
    """Which output holds the answer, and what its numbers are.

    ``kind``: ``probabilities`` (rows sum to 1), ``logits`` (softmax makes probabilities of them), ``classes``
    (class indices) or ``values``.
    """

    output: str
    kind: str


@dataclass(frozen=True)
class Calibration:
    """What confidence means for this model, fitted on validation rows when the bundle was built.

    Probabilities are softmax(log scores / ``temperature``) (Guo et al., On Calibration of Modern Neural Networks).
    ``histogram`` holds the share of rows by the likeliest class's probability in ten equal bins of 0-1: the
    reference that drift in the field is measured against.
    """

    temperature: float
    histogram: tuple[float, ...]
    rows: int


@dataclass(frozen=True)
class Golden:
    """Real inputs with the outputs that the exported file gave when the bundle was built.

    ``tolerance`` is the largest absolute difference allowed per output, in the output's stored units: other
    instruction sets round differently. ``made_by`` names what computed the outputs.
    """

    path: str
    rows: int
    tolerance: Mapping[str, float]
    made_by: str


@dataclass(frozen=True)
class Figures:
    """What validation measured of this model on ``target``; None where nothing was measured."""

    target: str
    metric: str | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    accuracy_rows: int | None = None
    source_accuracy: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    load_ms: float | None = None
    added_memory_mb: float | None = None
    size_bytes: int = 0
    download_bytes: int = 0


@dataclass(frozen=True)
class Limits:
    """The budget that the model was validated against; None sets no limit."""

    max_latency_ms: float | None = None
    max_memory_mb: float | None = None
    max_size_mb: float | None = None
    max_accuracy_drop_percent: float | None = None
    max_class_drop_percent: float | None = None


@dataclass(frozen=True)
class Lineage:
    """SHA-256 of what the model was made of."""

    source: str
    imported: str
    dataset: str
    model: str


@dataclass(frozen=True)
class Manifest:
    """A bundle's description; `from_json` accepts nothing that this class does not name."""

    name: str
    platform: str
    format: str
    precision: str
    model: str
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    task: str
    labels: tuple[str, ...]
    scores: Scores
    runtime: RuntimeNeed
    golden: Golden
    calibration: Calibration | None
    measurements: Figures
    budget: Limits
    lineage: Lineage
    monitoring: Monitoring
    schema_version: int = SCHEMA_VERSION
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> bytes:
        """The manifest's bytes; the same for equal manifests."""
        return canonical_json(asdict(self))

    @staticmethod
    def from_json(content: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            IntegrityError: another schema version, an unknown or missing key, a wrong type or range, a path that
                leads out of the bundle, or a reference to a file, output or shape that is not there.
        """
        return _manifest(parse_object(content, "manifest"))


def _manifest(f: Fields) -> Manifest:
    version = f.whole("schema_version")
    if version != SCHEMA_VERSION:
        raise IntegrityError(
            f"manifest: schema version {version}, this runtime reads {SCHEMA_VERSION}; update edgewright-runtime"
        )
    manifest = Manifest(
        name=f.text("name"),
        platform=f.text("platform", _PLATFORMS),
        format=f.text("format", _FORMATS),
        precision=f.text("precision", _PRECISIONS),
        model=f.path("model"),
        files=f.items("files", _file, _MAX_FILES),
        inputs=f.items("inputs", _tensor, 1000),
        outputs=f.items("outputs", _tensor, 1000),
        preprocessing=parse_preprocessing(f.object("preprocessing")),
        task=f.text("task", _TASKS),
        labels=f.items("labels", text_item),
        scores=_scores(f.object("scores")),
        runtime=_runtime(f.object("runtime")),
        golden=_golden(f.object("golden")),
        calibration=f.maybe("calibration", lambda key: _calibration(f.object(key))),
        measurements=_figures(f.object("measurements")),
        budget=_limits(f.object("budget")),
        lineage=_lineage(f.object("lineage")),
        monitoring=parse_monitoring(f.object("monitoring")),
        notes=f.items("notes", text_item, 1000),
    )
    f.done()
    _check_references(manifest)
    return manifest


def _check_references(manifest: Manifest) -> None:
    paths = [entry.path for entry in manifest.files]
    folded = {path.casefold() for path in paths}
    if len(folded) != len(paths):
        raise IntegrityError("manifest: a file is listed twice")
    folders = {"/".join(parts[:i]) for parts in (p.split("/") for p in folded) for i in range(1, len(parts))}
    if folders & folded or MANIFEST_NAME in folded:
        raise IntegrityError("manifest: a listed file stands where a folder or the manifest itself is")
    if not any(p == manifest.model or p.startswith(manifest.model + "/") for p in paths):
        raise IntegrityError(f"manifest: the model '{manifest.model}' is not among the files")
    if manifest.golden.path not in paths:
        raise IntegrityError(f"manifest: the golden vectors '{manifest.golden.path}' are not among the files")
    outputs = {spec.name for spec in manifest.outputs}
    if manifest.scores.output not in outputs or set(manifest.golden.tolerance) != outputs:
        raise IntegrityError(f"manifest: scores or golden vectors name other outputs than {sorted(outputs)}")
    width = manifest.preprocessing.width
    if manifest.preprocessing.columns and (len(manifest.inputs) != 1 or manifest.inputs[0].shape[-1:] != (width,)):
        raise IntegrityError(f"manifest: columns of {width} features do not fit the inputs' shapes")


def _file(value: Any, where: str) -> FileEntry:
    f = Fields(value, where)
    entry = FileEntry(f.path("path"), f.whole("bytes"), f.sha256("sha256"))
    f.done()
    return entry


def _tensor(value: Any, where: str) -> TensorSpec:
    f = Fields(value, where)
    spec = TensorSpec(
        name=f.text("name"),
        shape=f.items("shape", _dimension, _MAX_RANK),
        dtype=f.text("dtype", _DTYPES),
        scale=f.maybe("scale", lambda key: f.number(key, low=0)),
        zero_point=f.maybe("zero_point", lambda key: f.whole(key, -(1 << 31), 1 << 31)),
    )
    f.done()
    if (spec.scale is None) != (spec.zero_point is None) or spec.scale == 0:
        raise IntegrityError(f"{where}: scale and zero point stand together, and the scale is above zero")
    return spec


def _dimension(value: Any, where: str) -> int:
    return Fields({"dimension": value}, where).whole("dimension", -1, _MAX_DIMENSION)


def _scores(f: Fields) -> Scores:
    found = Scores(f.text("output"), f.text("kind", ("probabilities", "logits", "classes", "values")))
    f.done()
    return found


def _runtime(f: Fields) -> RuntimeNeed:
    found = RuntimeNeed(
        name=f.text("name"),
        minimum_version=f.text("minimum_version"),
        accelerator=f.maybe("accelerator", f.text),
        threads=f.whole("threads", 1, 1024),
        kernels=_kernels(f.object("kernels")),
        processor=f.maybe("processor", lambda key: _processor(f.object(key))),
    )
    f.done()
    return found


def _kernels(f: Fields) -> Kernels:
    found = Kernels(**{key: f.maybe(key, f.flag) for key in ("xnnpack", "kleidiai", "bfloat16", "int8")})
    f.done()
    return found


def _processor(f: Fields) -> Processor:
    found = Processor(
        instruction_set=f.text("instruction_set", _INSTRUCTION_SETS),
        dot_products=f.flag("dot_products"),
        largest_pair_sum=f.whole("largest_pair_sum", 0, 1 << 31),
    )
    f.done()
    return found


def _golden(f: Fields) -> Golden:
    found = Golden(f.path("path"), f.whole("rows", 1, 10_000), f.numbers_by_name("tolerance"), f.text("made_by"))
    f.done()
    return found


def _calibration(f: Fields) -> Calibration:
    found = Calibration(
        temperature=f.number("temperature", 1e-3, 1e3),
        histogram=f.items("histogram", _share, CONFIDENCE_BINS),
        rows=f.whole("rows", 1),
    )
    f.done()
    if len(found.histogram) != CONFIDENCE_BINS:
        raise IntegrityError(
            f"manifest: the confidence histogram has {len(found.histogram)} bins, not {CONFIDENCE_BINS}"
        )
    return found


def _share(value: Any, where: str) -> float:
    return Fields({"share": value}, where).number("share", 0, 1)


def _figures(f: Fields) -> Figures:
    found = Figures(
        target=f.text("target"),
        metric=f.maybe("metric", f.text),
        accuracy_rows=f.maybe("accuracy_rows", f.whole),
        size_bytes=f.whole("size_bytes"),
        download_bytes=f.whole("download_bytes"),
        **{
            key: f.maybe(key, f.number)
            for key in (
                "accuracy", "accuracy_low", "accuracy_high", "source_accuracy",
                "latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "load_ms", "added_memory_mb",
            )
        },
    )  # fmt: skip
    f.done()
    return found


def _limits(f: Fields) -> Limits:
    keys = (
        "max_latency_ms", "max_memory_mb", "max_size_mb", "max_accuracy_drop_percent", "max_class_drop_percent",
    )  # fmt: skip
    found = Limits(**{key: f.maybe(key, lambda k: f.number(k, low=0)) for key in keys})
    f.done()
    return found


def _lineage(f: Fields) -> Lineage:
    found = Lineage(f.sha256("source"), f.sha256("imported"), f.sha256("dataset"), f.sha256("model"))
    f.done()
    return found
